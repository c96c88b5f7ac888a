package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
)

// sources are the objects of the API server, and what is told by them to the queue.
type sources struct {
	log   *slog.Logger
	queue *queue
	moved chan struct{} // holds a token when the Node has changed

	discovery discovery.DiscoveryInterfaceWithContext
	factories []informers.SharedInformerFactory // but that of networks
	synced    []cache.InformerSynced            // of them
	services  corelisters.ServiceLister
	slices    cache.Indexer
	nodes     corelisters.NodeLister

	// ServiceCIDRs, which an API server before Kubernetes 1.33 does not have.
	withNetworks  bool // they are followed at all
	networks      informers.SharedInformerFactory
	cidrs         networkinglisters.ServiceCIDRLister
	networkSynced cache.InformerSynced

	denials denials
}

// byService is the index of EndpointSlices by the Service that they belong to.
const byService = "service"

// prepare makes the informers, which start does not wait for.
func (s *sources) prepare(client kubernetes.Interface, nodeName string) error {
	s.discovery = discovery.ToDiscoveryInterfaceWithContext(client.Discovery())
	all := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "!" + v1.IsHeadlessService }))
	services, endpoints := all.Core().V1().Services(), all.Discovery().V1().EndpointSlices()
	one := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", nodeName).String()
		}))
	nodes := one.Core().V1().Nodes()
	s.networks = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	cidrs := s.networks.Networking().V1().ServiceCIDRs()
	s.services, s.slices, s.nodes, s.cidrs = services.Lister(), endpoints.Informer().GetIndexer(), nodes.Lister(), cidrs.Lister()
	s.factories = []informers.SharedInformerFactory{all, one}
	if err := endpoints.Informer().AddIndexers(cache.Indexers{byService: indexByService}); err != nil {
		return err
	}
	var errs [4]error
	s.synced = make([]cache.InformerSynced, 3)
	s.synced[0], errs[0] = follow(s, "services", services.Informer(), func(before, after *v1.Service) {
		svc := cmp.Or(after, before)
		s.queue.service(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	})
	s.synced[1], errs[1] = follow(s, "endpointslices", endpoints.Informer(), s.queue.slice)
	s.synced[2], errs[2] = follow(s, "nodes", nodes.Informer(), func(_, _ *v1.Node) {
		s.queue.surroundings()
		select {
		case s.moved <- struct{}{}:
		default:
		}
	})
	s.networkSynced, errs[3] = follow(s, "servicecidrs", cidrs.Informer(), func(_, _ *networkingv1.ServiceCIDR) { s.queue.surroundings() })
	return errors.Join(errs[:]...)
}

// trim drops what nobody here reads, and which is a large part of an object.
func trim(object any) (any, error) {
	if m, err := meta.Accessor(object); err == nil {
		m.SetManagedFields(nil)
	}
	return object, nil
}

func indexByService(object any) ([]string, error) {
	if s, ok := object.(*discoveryv1.EndpointSlice); ok {
		if name, ok := serviceOf(s); ok {
			return []string{name.String()}, nil
		}
	}
	return nil, nil
}

// serviceOf returns the Service that an EndpointSlice belongs to.
func serviceOf(s *discoveryv1.EndpointSlice) (types.NamespacedName, bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	return types.NamespacedName{Namespace: s.Namespace, Name: name}, name != ""
}

// follow calls changed once for each change of an object, with the former and the
// present one, of which one is nil if the object is new or deleted.
func follow[T any](s *sources, what string, of cache.SharedIndexInformer, changed func(before, after *T)) (cache.InformerSynced, error) {
	notice := func(before, after any) {
		was, _ := before.(*T)
		is, _ := after.(*T)
		if was != nil || is != nil {
			changed(was, is)
		}
	}
	registration, err := of.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { notice(nil, object) },
		UpdateFunc: notice,
		DeleteFunc: func(last any) {
			if gone, ok := last.(cache.DeletedFinalStateUnknown); ok {
				last = gone.Obj
			}
			notice(last, nil)
		},
	})
	if err != nil {
		return nil, err
	}
	return registration.HasSynced, of.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		s.failed(what, err)
	})
}

// failed logs that objects cannot be followed at the moment. The informer tries again,
// and lists everything if it has to.
func (s *sources) failed(what string, err error) {
	if errors.Is(err, io.EOF) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // the ordinary end of a watch
	}
	s.log.Warn("the API server cannot be followed, which is tried again", "objects", what, "err", err)
	if apierrors.IsForbidden(err) {
		s.denials.add(what, err)
	}
}

// start starts the informers and waits until they have all objects. The function stop
// ends what is following.
func (s *sources) start(ctx context.Context, stop context.CancelCauseFunc, following *sync.WaitGroup) error {
	s.denials.begin(stop)
	for _, f := range s.factories {
		f.Start(ctx.Done())
	}
	synced := s.synced
	if s.withNetworks {
		asked := make(chan bool, 1)
		following.Go(func() { s.startNetworks(ctx, asked) })
		select {
		case exist := <-asked:
			if exist {
				synced = append(slices.Clone(synced), s.networkSynced)
			}
		case <-ctx.Done():
		}
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return context.Cause(ctx)
	}
	s.denials.end()
	return nil
}

// startNetworks starts the informer of ServiceCIDRs, if the API server has any. While that
// is unknown it asks again; after the first answer, whatever it is, it sends whether there
// is something to wait for.
func (s *sources) startNetworks(ctx context.Context, asked chan<- bool) {
	for wait := (backoff{}); ctx.Err() == nil; sleep(ctx, wait.next()) {
		exist, err := s.hasNetworks(ctx)
		if exist {
			s.networks.Start(ctx.Done())
		}
		select {
		case asked <- exist:
		default: // somebody knows already that it was unknown
		}
		if err == nil {
			return
		}
		s.log.Warn("whether the API server has ServiceCIDRs is unknown: until then unused addresses of services are not rejected", "err", err)
	}
}

func (s *sources) hasNetworks(ctx context.Context) (bool, error) {
	list, err := s.discovery.ServerResourcesForGroupVersionWithContext(ctx, networkingv1.SchemeGroupVersion.String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "servicecidrs" }), nil
}

// shutdown waits for the informers, whose context has ended.
func (s *sources) shutdown() {
	for _, f := range append(slices.Clone(s.factories), s.networks) {
		f.Shutdown()
	}
}

// denialWait is how long the API server may forbid something at the beginning: it does
// so while it starts, and while a manifest is being applied.
const denialWait = 5 * time.Second

// denials end a Controller that the API server forbids to read something, instead of
// letting it wait forever.
type denials struct {
	mu   sync.Mutex
	stop context.CancelCauseFunc // nil: nothing ends by it
	at   map[string]time.Time    // the first time, by the kind of objects
}

func (d *denials) begin(stop context.CancelCauseFunc) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop, d.at = stop, map[string]time.Time{}
}

func (d *denials) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop = nil
}

func (d *denials) add(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stop == nil {
		return
	}
	if first, ok := d.at[what]; !ok {
		d.at[what] = time.Now()
	} else if time.Since(first) >= denialWait {
		d.stop(fmt.Errorf("the API server refuses to list and watch %s: %w: the role of this program's account needs that rule", what, err))
	}
}
