package kube

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"

	"github.com/nftdp/go-nftdp/nftdp"
)

// Controller keeps the Dataplane of a node as the API server's objects say. It makes one
// Apply when it knows all objects, and then Updates of what has changed; what changes
// during an Update is in the next one.
type Controller struct {
	options   Options
	plane     *nftdp.Dataplane
	events    events.EventRecorder
	log       *slog.Logger
	observe   func(Sync)
	onProblem func(Problem)

	sources sources
	queue   queue

	// Of the goroutine that runs.
	node    *v1.Node
	config  nftdp.Config
	claims  claims
	wanted  map[types.NamespacedName]*wanted
	applied map[types.NamespacedName][]nftdp.Service // what the Dataplane has of each
	refused refusals
	full    bool // the next synchronization applies everything
}

// wanted is a Service as it was translated.
type wanted struct {
	claimant
	claims   map[claim]bool
	services []nftdp.Service
	state    *ServiceState
	problems []Problem
	reported []Problem // for which there was an Event
}

// ControllerConfig is what a Controller needs beside its Options.
type ControllerConfig struct {
	Client kubernetes.Interface
	// Dataplane has been opened with Config, of which only the Table and the Owner stay.
	// With an Owner, Services of that namespace alone can be served, with a configuration
	// that never changes.
	Dataplane *nftdp.Dataplane
	Config    nftdp.Config
	// Events receives an Event for each Problem; nil means that nobody does.
	Events events.EventRecorder
	// Problem is called for each Problem of a Service that is new, if it is not nil. It
	// must not wait.
	Problem func(Problem)
	// Logger receives what the Controller does; nil means that nobody does.
	Logger *slog.Logger
	// Observe is called after each synchronization, if it is not nil. It must not wait.
	Observe func(Sync)
}

// NewController returns a Controller, whose Run does the work. The Dataplane is for it
// alone. Options that are not valid are an error, as Validate returns it.
func NewController(o Options, c ControllerConfig) (*Controller, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	k := &Controller{
		options: o, plane: c.Dataplane, events: c.Events, log: c.Logger, observe: c.Observe, onProblem: c.Problem,
		full: true, config: c.Config,
		claims: claims{}, wanted: map[types.NamespacedName]*wanted{}, applied: map[types.NamespacedName][]nftdp.Service{},
		refused: refusals{},
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.observe == nil {
		k.observe = func(Sync) {}
	}
	if k.onProblem == nil {
		k.onProblem = func(Problem) {}
	}
	k.queue.init()
	k.sources = sources{log: k.log, queue: &k.queue, moved: make(chan struct{}, 1), withNetworks: o.ownsNetworks()}
	return k, k.sources.prepare(c.Client, o.NodeName)
}

// Run works until the context ends, which is its error. The rules stay. It also ends if
// the API server forbids to read what it needs: what the error names is missing in the
// rules of its ServiceAccount. Once it knows all objects it does not end for that.
func (k *Controller) Run(ctx context.Context) error {
	k.queue.begin(false)
	ctx, stop := context.WithCancelCause(ctx)
	var following sync.WaitGroup
	defer func() {
		stop(nil)
		following.Wait()
		k.sources.shutdown()
	}()
	if err := k.sources.start(ctx, stop, &following); err != nil {
		return err
	}
	k.waitForAddresses(ctx)
	k.queue.surroundings()
	k.queue.begin(true)
	failed := backoff{}
	for {
		work, err := k.queue.next(ctx, k.refused.timer())
		if err != nil {
			return err
		}
		if err := k.synchronize(ctx, work); err != nil && ctx.Err() == nil {
			wait := failed.next()
			k.log.Error("the services are not programmed yet", "err", err, "again after", wait)
			k.queue.again(work)
			sleep(ctx, wait)
			continue
		}
		failed = backoff{}
	}
}

// nodeWait is how long services wait for the addresses of the Node, as in kube-proxy: a
// node that joins the cluster has none at first.
const nodeWait = 30 * time.Second

// waitForAddresses waits until the Node has addresses, for half a minute.
func (k *Controller) waitForAddresses(ctx context.Context) {
	late := time.NewTimer(nodeWait)
	defer late.Stop()
	for {
		node, err := k.sources.nodes.Get(k.options.NodeName)
		if err == nil && len(node.Status.Addresses) > 0 {
			return
		}
		k.log.Info("waiting for the addresses of the Node", "node", k.options.NodeName, "exists", err == nil)
		select {
		case <-k.sources.moved:
		case <-late.C:
			k.log.Warn("the Node has no addresses: node ports are served when it has some", "node", k.options.NodeName, "exists", err == nil)
			return
		case <-ctx.Done():
			return
		}
	}
}

// synchronize makes the Dataplane have what the objects say now.
func (k *Controller) synchronize(ctx context.Context, w *work) (err error) {
	s := Sync{
		Full: k.full, Began: time.Now(), Queued: w.since, Triggers: w.triggers,
		Services: w.changes, Slices: w.slices, States: map[types.NamespacedName]*ServiceState{},
	}
	defer func() {
		if s.Ended, s.Refused, s.Err = time.Now(), len(k.refused), err; err == nil {
			k.queue.done(s.Ended)
		}
		k.observe(s)
	}()
	touched := w.services
	if w.around {
		all, err := k.lookAround(ctx)
		if err != nil {
			return err
		}
		if all || k.full {
			touched = k.everything()
		}
	}
	touched = maps.Clone(touched)
	for name := range touched {
		for other := range k.translate(name) {
			touched[other] = true
		}
	}
	for name := range touched {
		if s.States[name] = nil; k.wanted[name] != nil {
			s.States[name] = k.wanted[name].state
		}
	}
	s.Behind, err = k.program(ctx, touched)
	return err
}

// everything lists all Services that there are, or were.
func (k *Controller) everything() map[types.NamespacedName]bool {
	out := map[types.NamespacedName]bool{}
	all, _ := k.sources.services.List(labels.Everything()) // a lister of a cache does not fail
	for _, s := range all {
		out[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = true
	}
	for name := range k.wanted {
		out[name] = true
	}
	return out
}

// lookAround follows the Node and the ServiceCIDRs, and reports whether services may
// mean something else now.
func (k *Controller) lookAround(ctx context.Context) (all bool, err error) {
	node, err := k.sources.nodes.Get(k.options.NodeName)
	if err != nil {
		node = k.node // a Node that is deleted still is what it was
	}
	cidrs, _ := k.sources.cidrs.List(labels.Everything()) // as above
	before := k.node
	k.node = node
	c := k.options.Config(node, cidrs)
	c.Table, c.Owner = k.config.Table, k.config.Owner
	if !reflect.DeepEqual(c, k.config) {
		if _, err := k.plane.SetConfig(ctx, c); err != nil {
			return false, fmt.Errorf("configuration: %w", err)
		}
		k.config = c
	}
	return !sameNode(before, node), nil
}

// sameNode reports whether services mean the same with both nodes.
func sameNode(a, b *v1.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Labels[v1.LabelTopologyZone] == b.Labels[v1.LabelTopologyZone] &&
		slices.Equal(primaryAddrs(a), primaryAddrs(b)) && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs)
}

// translate notes what a Service wants now, and returns other Services that this makes
// gain or lose a frontend.
func (k *Controller) translate(name types.NamespacedName) (others map[types.NamespacedName]bool) {
	before := k.wanted[name]
	if before == nil {
		before = &wanted{claimant: claimant{name: name}}
	}
	next := &wanted{claimant: claimant{name: name}, reported: before.reported}
	svc, err := k.sources.services.Services(name.Namespace).Get(name.Name)
	if err == nil {
		next.created = svc.CreationTimestamp.Time
		endpoints := k.slicesOf(name)
		next.services, next.problems = k.options.Services(svc, endpoints, k.node)
		next.claims = claimsOf(next.services)
		next.state = k.options.state(svc, endpoints, next.services)
		k.wanted[name] = next
	} else {
		delete(k.wanted, name)
	}
	return k.claims.replace(next.claimant, before.claims, next.claims)
}

func (k *Controller) slicesOf(name types.NamespacedName) (out []*discoveryv1.EndpointSlice) {
	objects, _ := k.sources.slices.ByIndex(byService, name.String()) // the index exists
	for _, object := range objects {
		if s, ok := object.(*discoveryv1.EndpointSlice); ok {
			out = append(out, s)
		}
	}
	return out
}

// report logs each problem of a Service that is new, and makes an Event of it.
func (k *Controller) report(w *wanted, more []Problem) {
	problems := slices.Concat(w.problems, more)
	slices.SortFunc(problems, func(a, b Problem) int { return compareText(a.Message, b.Message) })
	problems = slices.Compact(problems) // of two protocols, for example
	for _, p := range problems {
		if slices.Contains(w.reported, p) {
			continue
		}
		k.log.Warn("a service is not served as it is", "service", p.Object.String(), "reason", p.Reason, "message", p.Message)
		k.onProblem(p)
		k.record(p)
	}
	w.reported = problems
}
