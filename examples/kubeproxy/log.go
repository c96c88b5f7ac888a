package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// newLogger returns a logger in the form of klog, or in that of Kubernetes' JSON, and
// makes client-go use it, too. --v 4 and more has what slog calls debug.
func newLogger(to io.Writer, format string, verbosity int) (*slog.Logger, error) {
	set := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(set)
	if err := set.Set("v", strconv.Itoa(verbosity)); err != nil {
		return nil, fmt.Errorf("--v: %w", err)
	}
	if format == "json" {
		log := slog.New(slog.NewJSONHandler(to, &slog.HandlerOptions{AddSource: true, Level: slog.Level(-verbosity), ReplaceAttr: asKubernetes}))
		klog.SetSlogLogger(log)
		return log, nil
	}
	logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(verbosity), textlogger.Output(to)))
	klog.SetLogger(logger)
	return slog.New(logr.ToSlogHandler(logger)), nil
}

// asKubernetes names and writes the fields that every line has as Kubernetes does: ts
// in milliseconds since 1970, caller, and v, the verbosity, which errors do not have.
func asKubernetes(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch value := a.Value.Any().(type) {
	case *slog.Source:
		file := filepath.Join(filepath.Base(filepath.Dir(value.File)), filepath.Base(value.File))
		return slog.String("caller", fmt.Sprintf("%s:%d", file, value.Line))
	case slog.Level:
		if a.Key != slog.LevelKey {
			return a
		}
		if value >= slog.LevelError {
			return slog.Attr{}
		}
		return slog.Int("v", max(0, -int(value)))
	}
	if a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		return slog.Float64("ts", float64(a.Value.Time().UnixNano())/1e6)
	}
	return a
}
