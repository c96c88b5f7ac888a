package nftdp

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// inNamespace runs a shell script in a new network namespace.
func inNamespace(t *testing.T, script string, stdin []byte) ([]byte, error) {
	t.Helper()
	flags := "-n"
	if os.Geteuid() != 0 {
		flags = "-rn"
	}
	cmd := exec.CommandContext(t.Context(), "unshare", flags, "sh", "-c", script)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return out, err
}

// stockNft loads text with nft and returns nft's listing.
func stockNft(t *testing.T, text []byte) ([]byte, error) {
	t.Helper()
	return inNamespace(t, "nft -f - && nft list ruleset", text)
}

func needStockNft(t *testing.T) {
	t.Helper()
	if _, err := stockNft(t, nil); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("CI is set, but stock nft does not run in a namespace:", err)
		}
		t.Skip("needs nft, unshare and the privilege to create a network namespace:", err)
	}
}

// TestStockNftKeepsNames: stock nft loads every kind of valid name, lists it,
// and loads the listing.
func TestStockNftKeepsNames(t *testing.T) {
	needStockNft(t)
	// A batch of nft has to fit into the socket buffer that a user without
	// privileges outside of the namespace gets: 200 kB by default.
	for names := range slices.Chunk(nameSamples(), 400) {
		keepsNames(t, names)
	}
}

func keepsNames(t *testing.T, names []string) {
	t.Helper()
	var elements []string
	for i, name := range names {
		if err := (Config{}).Validate([]Service{{Name: name}}); err != nil {
			t.Fatal(err)
		}
		elements = append(elements, fmt.Sprintf("%d comment \"%s\" : drop", i+1, name))
	}
	// Without a size the kernel would list some elements twice or never while
	// the hash table grows.
	text := "table ip t {\nmap frontends {\ntype inet_service : verdict\nsize 1000\nelements = {" +
		strings.Join(elements, ",\n") + "}\n}\n}\n"
	once, err := stockNft(t, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for i, element := range elements {
		if !bytes.Contains(once, []byte(element)) {
			t.Errorf("nft lists %q differently", names[i])
		}
	}
	twice, err := stockNft(t, once)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(once, twice) {
		t.Error("nft loads its own listing differently")
	}
}

// nameSamples returns valid names: every pair of ASCII characters, with spaces
// around, and every printable character beyond ASCII.
func nameSamples() []string {
	names := []string{" ", "   ", `\n`, "a : goto drop, 1", "} }", "include \\", strings.Repeat("x", MaxNameLen)}
	ascii := func(c rune) bool { return c != '"' && unicode.IsPrint(c) }
	for c := range rune(0x80) {
		for d := range rune(0x80) {
			if ascii(c) && ascii(d) {
				names = append(names, " "+string(c)+string(d)+"a"+string(c)+" ")
			}
		}
	}
	var beyond []rune
	for c := rune(0x80); c <= unicode.MaxRune; c++ {
		if unicode.IsPrint(c) {
			beyond = append(beyond, c)
		}
	}
	for part := range slices.Chunk(beyond, MaxNameLen/4) {
		names = append(names, string(part))
	}
	return names
}

// TestStockNftRefusesWords: nft cannot read the table names that we refuse,
// except those that only newer versions refuse.
func TestStockNftRefusesWords(t *testing.T) {
	needStockNft(t)
	newer := strings.Fields("destroy geneve gre gretap rules tunnel tunnels vni vxlan")
	var script strings.Builder
	for word := range strings.FieldsSeq(nftWords) {
		if !slices.Contains(newer, word) {
			fmt.Fprintf(&script, "nft list table ip %s 2>&1 | grep -q syntax.error || echo %s\n", word, word)
		}
	}
	out, err := inNamespace(t, script.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) > 0 {
		t.Errorf("nft accepts these as names of tables: %s", out)
	}
}
