package compile

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"
)

// Arranged returns the service with its backends, as far as possible, at the slots
// that they have in another version of it. Then a change of few backends changes
// few slots, whatever the size of the pool. Two services that differ only in the
// arrangement become equal by this.
//
// Where all nodes have to agree which backend a client meets, the arrangement
// depends on nothing but the backends: that of schedulers that hash, and of a
// rotation with weights, which are spread evenly.
func (s *Service) Arranged(like *Service) *Service {
	if like == nil || !schedulers[s.Scheduler].anySlot || s.arrangedLike(like) {
		return s
	}
	var known arrangements
	out := *s
	out.Frontends = make([]*Frontend, 0, len(s.Frontends))
	var unpaired []*Frontend
	for f, l := range Paired(s.Frontends, like.Frontends) {
		if f == nil {
			continue
		}
		if f != l {
			f = new(*f)
		}
		out.Frontends = append(out.Frontends, f)
		switch l {
		case f:
		case nil:
			unpaired = append(unpaired, f)
		default:
			f.Pool, f.Ordered = known.arrange(f.Port, f.Pool, f.Ordered, l.Pool, l.Ordered)
			f.Internal, f.OrderedInternal = known.arrange(f.Port, f.Internal, f.OrderedInternal, l.Internal, l.OrderedInternal)
		}
	}
	for _, f := range unpaired { // as the other frontends with the same backends
		f.Pool, f.Ordered = known.like(f.Pool, f.Ordered)
		f.Internal, f.OrderedInternal = known.like(f.Internal, f.OrderedInternal)
	}
	if out.arrangedAs(s) {
		return s
	}
	return &out
}

// arrangedLike reports whether the frontends that another version has, too, have the same
// slots there. Then the others have nothing to follow.
func (s *Service) arrangedLike(like *Service) bool {
	for f, l := range Changed(s, like) {
		if f != nil && l != nil && (!equal(f.Pool, l.Pool) || !equal(f.Internal, l.Internal)) {
			return false
		}
	}
	return true
}

// arrangedAs reports whether both services have the same frontends, with the same
// slots.
func (s *Service) arrangedAs(o *Service) bool {
	if len(s.Frontends) != len(o.Frontends) {
		return false
	}
	for i := range s.Frontends {
		f, l := s.Frontends[i], o.Frontends[i]
		if f != l && (f.order(l) != 0 || !equal(f.Pool, l.Pool) || !equal(f.Internal, l.Internal)) {
			return false
		}
	}
	return true
}

func equal(a, b []netip.AddrPort) bool { return same(a, b) || slices.Equal(a, b) }

// Paired iterates over two lists of frontends, each in the order of Service.Frontends,
// and yields those of both lists at the same place together, others beside nil.
func Paired(a, b []*Frontend) iter.Seq2[*Frontend, *Frontend] {
	return func(yield func(x, y *Frontend) bool) {
		for len(a) > 0 || len(b) > 0 {
			var x, y *Frontend
			if x, y, a, b = pair(a, b); !yield(x, y) {
				return
			}
		}
	}
}

// pair takes the first pair from two lists.
func pair(a, b []*Frontend) (x, y *Frontend, restA, restB []*Frontend) {
	order := cmp.Compare(len(b), len(a)) // if one list is at its end
	switch {
	case len(a) == 0 || len(b) == 0:
	case a[0] == b[0]:
		order = 0
	default:
		order = a[0].order(b[0])
	}
	if order <= 0 && len(a) > 0 {
		x, a = a[0], a[1:]
	}
	if order >= 0 && len(b) > 0 {
		y, b = b[0], b[1:]
	}
	return x, y, a, b
}

// Changed is Paired for the frontends of a service and of its successor, without those
// that both share and that stay at their Key.
func Changed(s, successor *Service) iter.Seq2[*Frontend, *Frontend] {
	if s.Proto != successor.Proto {
		return Paired(s.Frontends, successor.Frontends)
	}
	return func(yield func(x, y *Frontend) bool) {
		a, b := s.Frontends, successor.Frontends
		for len(a)+len(b) > 0 {
			n := inCommon(a, b)
			var x, y *Frontend
			if x, y, a, b = pair(a[n:], b[n:]); x != y && !yield(x, y) {
				return
			}
		}
	}
}

// inCommon returns how many frontends two lists share at their beginning.
func inCommon(a, b []*Frontend) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Spliced returns a list of frontends without those at the places of some that are gone,
// and with those that come. All lists are in order. Distinct is false if one that comes
// has the place of one that stays.
func Spliced(list, gone, come []*Frontend) (all []*Frontend, distinct bool) {
	switch {
	case len(list) == 0:
		return come, true
	case len(gone)+len(come) == 0:
		return list, true
	}
	all, distinct = make([]*Frontend, 0, len(list)+len(come)), true
	for g, c := range Paired(gone, come) {
		at := cmp.Or(g, c)
		n, found := slices.BinarySearchFunc(list, at, (*Frontend).order)
		all, list = append(all, list[:n]...), list[n:]
		switch {
		case g != nil && found:
			list = list[1:]
		case found:
			distinct = false
		}
		if c != nil {
			all = append(all, c)
		}
	}
	return append(all, list...), distinct
}

// InOrder sorts frontends as Service.Frontends.
func InOrder(list []*Frontend) { slices.SortFunc(list, (*Frontend).order) }

// Sharing returns the slots that some of the frontends have, and their order as Slots
// returned them, if it returned this pool; otherwise the pool.
func Sharing(frontends []*Frontend, pool []netip.AddrPort) (slots, ordered []netip.AddrPort) {
	if len(pool) == 0 {
		return pool, nil
	}
	var last *Frontend
	for _, f := range frontends {
		if last != nil && f.SamePools(last) {
			continue
		}
		last = f
		for _, p := range [...][2][]netip.AddrPort{{f.Pool, f.Ordered}, {f.Internal, f.OrderedInternal}} {
			if slices.Equal(pool, p[0]) && p[1] == nil || slices.Equal(pool, p[1]) && p[1] != nil {
				return p[0], p[1]
			}
		}
	}
	return pool, nil
}

// order compares the places of two frontends.
func (f *Frontend) order(o *Frontend) int {
	return cmp.Or(f.Addr.Compare(o.Addr), cmp.Compare(f.Port, o.Port), cmp.Compare(f.End, o.End))
}

// arrangements remembers the pools that were arranged last: the frontends of a
// service mostly share theirs.
type arrangements []arrangement

type arrangement struct{ pool, like, arranged, ordered []netip.AddrPort }

const remembered = 4 // pools of all backends and of local ones, in both families

func (k *arrangements) arrange(port uint16, pool, ordered, like, likeOrdered []netip.AddrPort) (arranged, sorted []netip.AddrPort) {
	for _, a := range *k {
		if same(a.pool, pool) && same(a.like, like) {
			return a.arranged, a.ordered
		}
	}
	a := arrangement{pool: pool, like: like, arranged: pool, ordered: ordered}
	if ordered == nil && slices.IsSortedFunc(pool, netip.AddrPort.Compare) {
		a.ordered = pool
	}
	if len(pool) > 0 && a.ordered != nil { // otherwise its order is that of a rotation with weights
		if renamed := withoutPort(like, a.ordered, port); !same(renamed, like) {
			like, likeOrdered = renamed, nil
		}
		a.arranged = rearrange(like, inOrderOf(like, likeOrdered), a.ordered)
	}
	*k = append(*k, a)
	if len(*k) > remembered {
		*k = slices.Delete(*k, 0, 1)
	}
	return a.arranged, a.ordered
}

// like arranges a pool as another frontend's pool was arranged.
func (k *arrangements) like(pool, ordered []netip.AddrPort) (arranged, sorted []netip.AddrPort) {
	for _, a := range *k {
		if same(a.pool, pool) {
			return a.arranged, a.ordered
		}
	}
	return pool, ordered
}

// withoutPort returns a pool with the names that another one, which is in order, has
// for its backends: a backend with the frontend's port, as it is read from a
// ruleset, may be one without a port.
func withoutPort(pool, ordered []netip.AddrPort, port uint16) []netip.AddrPort {
	if !slices.ContainsFunc(ordered, func(b netip.AddrPort) bool { return b.Port() == 0 }) {
		return pool
	}
	out := slices.Clone(pool)
	for i, b := range out {
		plain := netip.AddrPortFrom(b.Addr(), 0)
		if _, ok := slices.BinarySearchFunc(ordered, plain, netip.AddrPort.Compare); ok && b.Port() == port {
			out[i] = plain
		}
	}
	if slices.Equal(out, pool) {
		return pool
	}
	return out
}

// inOrderOf returns the backends of a pool in order, if that is not known already.
func inOrderOf(pool, ordered []netip.AddrPort) []netip.AddrPort {
	switch {
	case ordered != nil:
		return ordered
	case slices.IsSortedFunc(pool, netip.AddrPort.Compare):
		return pool
	}
	return slices.SortedFunc(slices.Values(pool), netip.AddrPort.Compare)
}

// rearrange returns the backends of want, each at a slot that it has in another
// pool if there is one. The slots of backends that left are filled by those that
// are new, and by those from slots that no longer exist. So it returns the other
// pool if that has the same backends. The last two arguments are in order.
func rearrange(like, likeOrdered, want []netip.AddrPort) []netip.AddrPort {
	gone, fresh := differing(likeOrdered, want, netip.AddrPort.Compare)
	if len(gone) == 0 && len(fresh) == 0 {
		return like
	}
	out := make([]netip.AddrPort, max(len(like), len(want)))
	copy(out, like)
	free := vacate(out[:len(like)], gone)
	for i := len(like); i < len(want); i++ {
		free = append(free, i)
	}
	for _, b := range out[min(len(want), len(like)):len(like)] {
		if b.IsValid() {
			fresh = append(fresh, b) // its slot no longer exists
		}
	}
	for _, i := range free {
		if i < len(want) {
			out[i], fresh = fresh[0], fresh[1:]
		}
	}
	return out[:len(want)]
}

// vacate empties slots of some backends, as many as each is listed, and returns
// the slots in order. Of the slots of one backend the last ones are emptied.
func vacate(pool, gone []netip.AddrPort) (free []int) {
	left := make([]int, len(gone)) // by the first place of each backend
	for i, first := 0, 0; i < len(gone); i++ {
		if gone[i] != gone[first] {
			first = i
		}
		left[first]++
	}
	for i := len(pool) - 1; i >= 0 && len(free) < len(gone); i-- {
		if j, ok := slices.BinarySearchFunc(gone, pool[i], netip.AddrPort.Compare); ok && left[j] > 0 {
			left[j]--
			pool[i] = netip.AddrPort{}
			free = append(free, i)
		}
	}
	slices.Reverse(free)
	return free
}

// differing compares two lists that are in order, and may have repetitions.
func differing[T comparable](a, b []T, compare func(x, y T) int) (onlyA, onlyB []T) {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0] == b[0]:
			a, b = a[1:], b[1:]
		case compare(a[0], b[0]) < 0:
			onlyA, a = append(onlyA, a[0]), a[1:]
		default:
			onlyB, b = append(onlyB, b[0]), b[1:]
		}
	}
	return append(onlyA, a...), append(onlyB, b...)
}
