// The kubeproxy program keeps a node's Services right, in place of kube-proxy or
// beside it. Its flags, its configuration file, and what it serves at which port are
// kube-proxy's, as far as they apply.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/events"

	"github.com/nftdp/go-nftdp/nftdp"
	"github.com/nftdp/go-nftdp/nftdp/kube"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kubeproxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f, err := parseFlags(args)
	if err != nil {
		return err
	}
	log, err := newLogger(os.Stderr, f.logFormat, f.verbosity)
	if err != nil {
		return err
	}
	if len(f.idle) > 0 {
		log.Warn("fields of the configuration file have no effect", "file", f.config, "fields", f.idle)
	}
	switch {
	case f.cleanup:
		return cleanUp(ctx, f)
	case f.initOnly:
		return initialize(ctx, f, log)
	}
	adjustOOMScore(f, log)
	client, err := connect(f)
	if err != nil {
		return err
	}
	config := f.options.Config(nil, nil) // until the Controller knows the Node
	config.Table = f.table
	plane, err := config.Open(ctx)
	if err != nil {
		return err
	}
	defer plane.Close()
	if err := setParameters(ctx, plane, log); err != nil {
		return err
	}
	return serve(ctx, f, client, plane, config, log)
}

// serve runs the Controller beside the repair of what others do to the tables, and what
// tells of both.
func serve(ctx context.Context, f *flags, client kubernetes.Interface, plane *nftdp.Dataplane, config nftdp.Config, log *slog.Logger) error {
	recorder, done, err := newRecorder(ctx, &events.EventSinkImpl{Interface: client.EventsV1()})
	if err != nil {
		return err
	}
	defer done()
	m := newMonitor(f, log, recorder)
	controller, err := kube.NewController(f.options, kube.ControllerConfig{
		Client: client, Dataplane: plane, Config: config, Events: recorder, Logger: log, Observe: m.observe,
	})
	if err != nil {
		return err
	}
	m.use(controller)
	registry, unregister := m.register(plane)
	defer unregister()
	recorder.Eventf(m.nodeRef(), nil, v1.EventTypeNormal, "Starting", startAction, "")
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return m.serve(ctx, registry) })
	all.Go(func() error {
		return plane.Keep(ctx, func(d *nftdp.Drift, err error) {
			m.repaired(err)
			if err != nil {
				log.Error("the repair of our tables failed", "err", err)
			} else {
				log.Warn("somebody changed our tables, which are repaired", "drift", d)
			}
		})
	})
	all.Go(func() error { return controller.Run(ctx) })
	return all.Wait()
}

// connect opens the API server that a kubeconfig names, or that of the cluster in which
// the program runs as a pod.
func connect(f *flags) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags(f.master, f.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("API server: %w: --kubeconfig names one, which a pod does not need", err)
	}
	config.UserAgent = "nftdp-kubeproxy"
	config.QPS, config.Burst = f.qps, f.burst
	config.ContentType, config.AcceptContentTypes = f.contentType, f.accept
	return kubernetes.NewForConfig(rest.AddUserAgent(config, "nftdp-kubeproxy"))
}

// initialize sets the kernel parameters, for which a container has to be privileged.
func initialize(ctx context.Context, f *flags, log *slog.Logger) error {
	plane, err := nftdp.Config{Table: f.table}.Open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(setParameters(ctx, plane, log), plane.Close())
}

// setParameters sets those kernel parameters that are not as services need them.
func setParameters(ctx context.Context, plane *nftdp.Dataplane, log *slog.Logger) error {
	changed, err := plane.MeetRequirements(ctx)
	for _, r := range changed {
		log.Info("kernel parameter set", "requirement", r.String())
	}
	if err != nil {
		return fmt.Errorf("kernel parameters: %w: run this program once with --init-only in a privileged container", err)
	}
	return nil
}

// cleanUp deletes the tables, and with them the node's Services.
func cleanUp(ctx context.Context, f *flags) error {
	plane, err := nftdp.Config{Table: f.table}.Open(ctx)
	if err != nil {
		return err
	}
	return errors.Join(plane.Remove(ctx), plane.Close())
}

// hostname is the name of a Node unless it is overridden, as the kubelet chooses it.
func hostname(override string) (string, error) {
	name := override
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", err
		}
	}
	if name = strings.ToLower(strings.TrimSpace(name)); name == "" {
		return "", errors.New("the node has no name: use --hostname-override")
	}
	return name, nil
}
