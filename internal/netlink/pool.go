//go:build linux

package netlink

import (
	"context"
	"os"
	"sync"
)

// Pool holds sockets of one protocol in one network namespace, so that goroutines
// do not wait for each other's requests. It may be used concurrently.
//
// One socket is opened at the beginning, others when they are needed. That takes
// CAP_SYS_ADMIN if the thread is in another namespace (netns_install in
// net/core/net_namespace.c). Without it, goroutines take turns with the sockets
// that are open.
type Pool struct {
	dial func(ns int) (*Socket, error)
	idle chan *Socket

	mu     sync.Mutex
	open   map[*Socket]bool // idle or in use
	closed chan struct{}
}

// maxIdle bounds the sockets that wait for a next request.
const maxIdle = 4

// NewPool opens the first socket, in the network namespace of a file descriptor,
// which may be closed afterwards, or Here.
func NewPool(ns int, dial func(ns int) (*Socket, error)) (*Pool, error) {
	s, err := dial(ns)
	if err != nil {
		return nil, err
	}
	p := &Pool{dial: dial, idle: make(chan *Socket, maxIdle), open: map[*Socket]bool{s: true}, closed: make(chan struct{})}
	p.idle <- s
	return p, nil
}

// Do runs a function with a socket that nobody else uses meanwhile. After Close the
// error is os.ErrClosed.
func (p *Pool) Do(ctx context.Context, do func(*Socket) error) error {
	s, err := p.take(ctx)
	if err != nil {
		return err
	}
	if err = s.finish(ctx); err == nil {
		err = do(s)
	}
	if p.release(s) {
		return err
	}
	return os.ErrClosed
}

func (p *Pool) take(ctx context.Context) (*Socket, error) {
	select {
	case s := <-p.idle:
		return s, nil
	default:
	}
	if s := p.another(); s != nil {
		return s, nil
	}
	select {
	case s := <-p.idle:
		return s, nil
	case <-p.closed:
		return nil, os.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// another opens a socket beside those that are open. It returns nil if that is not
// possible.
func (p *Pool) another() *Socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	for beside := range p.open {
		ns, err := beside.Namespace()
		if err != nil {
			return nil
		}
		defer ns.Close()
		s, err := p.dial(int(ns.Fd()))
		if err != nil {
			return nil
		}
		p.open[s] = true
		return s
	}
	return nil
}

// release makes a socket available to others. It returns false if the Pool has been
// closed.
//
// A socket with an abandoned dump is replaced, if possible: its next request would
// first have to read the rest of the dump.
func (p *Pool) release(s *Socket) bool {
	if s.pending != 0 {
		if next := p.another(); next != nil {
			p.drop(s)
			s = next
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open[s] {
		return false
	}
	select {
	case p.idle <- s:
	default:
		delete(p.open, s)
		_ = s.Close()
	}
	return true
}

func (p *Pool) drop(s *Socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[s] {
		delete(p.open, s)
		_ = s.Close()
	}
}

// Close closes all sockets, also those in use: their requests end with an error.
func (p *Pool) Close() (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.open {
		if closed := s.Close(); err == nil {
			err = closed
		}
		delete(p.open, s)
	}
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return err
}
