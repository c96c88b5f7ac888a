package ruleset

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The kernel accepts any bytes as names and comments. Others may put some into
// our tables that control a terminal, or that nft would read as more commands.
// Those are shown in Go's quotes, and ours are shown as they are.

// nameText is the name of a chain or a set.
func nameText(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_-./\\", r)
	}) >= 0 {
		return strconv.Quote(s)
	}
	return s
}

// commentText is a comment in quotes.
func commentText(s string) string {
	if !utf8.ValidString(s) || strings.IndexFunc(s, func(r rune) bool { return r == '"' || !unicode.IsPrint(r) }) >= 0 {
		return strconv.Quote(strings.ReplaceAll(s, `"`, "'")) // nft knows no escape for a double quote
	}
	return `"` + s + `"`
}
