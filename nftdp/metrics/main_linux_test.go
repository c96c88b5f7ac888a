package metrics

import (
	"testing"

	"github.com/nftdp/go-nftdp/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }
