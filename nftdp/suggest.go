package nftdp

import (
	"fmt"
	"strings"
)

// advice suggests the known name that is nearest to an unknown one.
func advice(name string, known []string) string {
	const near = 2
	nearest, least := "", near+1
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < min(least, len(k)-1) {
			nearest, least = k, d
		}
	}
	if nearest == "" {
		return "known are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("did you mean %q?", nearest)
}

// distance is the number of bytes that have to be inserted, removed or replaced
// to turn a into b (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
