package compile

import (
	"strconv"
	"strings"

	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// Owned reports whether a table's comment is one of ours, of any schema.
func Owned(t *ruleset.Table) bool { return strings.HasPrefix(t.Comment, SchemaPrefix) }

// Current reports whether a table has the layout of this version.
func Current(t *ruleset.Table) bool {
	return t.Comment == Schema || strings.HasPrefix(t.Comment, Schema+sharedMark)
}

// Outdated reports whether a table has the layout of an older version.
func Outdated(t *ruleset.Table) bool {
	n, ok := schemaNumber(t.Comment)
	ours, _ := schemaNumber(Schema)
	return ok && n < ours
}

// schemaNumber reads the number of the layout from a table's comment.
func schemaNumber(comment string) (n uint64, ok bool) {
	digits, ok := strings.CutPrefix(comment, SchemaPrefix)
	digits, _, _ = strings.Cut(digits, sharedMark)
	n, err := strconv.ParseUint(digits, 10, 32)
	return n, ok && err == nil
}
