package nftdp

import (
	"fmt"

	"github.com/nftdp/go-nftdp/internal/around"
	"github.com/nftdp/go-nftdp/internal/ruleset"
)

// kernel finds what the kernel cannot do.
func (x *examination) kernel() {
	for _, m := range x.Missing {
		x.found(Finding{
			Severity: [...]Severity{around.Spared: SeverityNotice, around.Missed: SeverityWarning, around.Needed: SeverityError}[m.Need],
			Code:     CodeKernelFeature, Subject: m.What,
			Evidence: fmt.Sprintf("the kernel %s: %s", m.Refused, m.Cost),
			Remedy:   fmt.Sprintf("Use a kernel with %s, or load the modules if something keeps the kernel from doing that", m.Options),
		})
	}
}

// drift finds what others have changed in our tables. Without knowledge of what is
// wanted, the elements that belong to no frontend remain of one that was deleted.
func (x *examination) drift() {
	for _, f := range ruleset.Families {
		var names []string
		missing, more, table := 0, 0, ""
		for i := range x.Drift {
			c := &x.Drift[i]
			if c.Family != f {
				continue
			}
			table = fmt.Sprintf("table %s %s", c.Family, c.Table)
			names = append(names, c.Set.Name)
			if c.Verb == ruleset.Add {
				missing += len(c.Elements)
			} else {
				more += len(c.Elements)
			}
		}
		found := Finding{
			Severity: SeverityWarning, Code: CodeDrift, Subject: table,
			Evidence: fmt.Sprintf("%d elements of services are left of frontends that are not there, in %s: others have deleted these, or a process was killed before it had deleted everything", more, some(names)),
			Remedy:   "Program the services again (Apply, or nftdp apply -f FILE), and let Keep run, which repairs at once what others do",
		}
		if missing > 0 {
			found.Severity = SeverityError
			found.Evidence = fmt.Sprintf("%d elements of services are missing, and %d are there that nobody wants, in %s: others have changed the tables", missing, more, some(names))
		}
		if missing+more > 0 {
			x.found(found)
		}
	}
}
