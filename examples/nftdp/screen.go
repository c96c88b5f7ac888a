//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/nftdp/go-nftdp/nftdp"
)

// screen shows rates on the whole terminal.
func (t *tool) screen(ctx context.Context, d *nftdp.Dataplane, r *rates, how topping) error {
	m := &screen{tool: t, ctx: ctx, dataplane: d, rates: r, how: how, width: 80, height: 24}
	options := []tea.ProgramOption{tea.WithContext(ctx), tea.WithOutput(t.out), tea.WithInput(t.in), tea.WithoutSignalHandler()}
	_, err := tea.NewProgram(m, options...).Run()
	if errors.Is(err, tea.ErrInterrupted) || ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, m.err)
}

// screen is the model of bubbletea: Update and View are called in turn.
type screen struct {
	tool      *tool
	ctx       context.Context //nolint:containedctx // of the run that this is
	dataplane *nftdp.Dataplane
	rates     *rates
	how       topping

	width, height int
	scroll        int
	readings      int
	list          []*serviceRate
	err           error
}

// tick is the time of a reading.
type tick time.Time

// reading is what a reading has found.
type reading struct {
	held []nftdp.ServiceStatus
	at   time.Time
	err  error
}

func (m *screen) wait() tea.Cmd {
	return tea.Tick(m.how.interval, func(now time.Time) tea.Msg { return tick(now) })
}

// Init begins to wait.
func (m *screen) Init() tea.Cmd { return m.wait() }

// Update handles what happens.
func (m *screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	case tick:
		return m, func() tea.Msg {
			held, err := counters(m.ctx, m.dataplane)
			return reading{held, time.Time(msg), err}
		}
	case reading:
		if m.readings++; msg.err != nil || m.readings == m.how.count {
			m.err = msg.err
			return m, tea.Quit
		}
		m.rates.add(msg.held, msg.at)
		m.list = m.rates.sorted()
		return m, m.wait()
	}
	return m, nil
}

func (m *screen) key(name string) tea.Cmd {
	switch name {
	case "q", "esc", "ctrl+c":
		return tea.Quit
	case "down", "j":
		m.scroll++
	case "up", "k":
		m.scroll--
	case "pgdown", "space":
		m.scroll += m.body()
	case "pgup":
		m.scroll -= m.body()
	case "home":
		m.scroll = 0
	}
	return nil
}

// body is the number of lines between the heading and the last line.
func (m *screen) body() int { return max(1, m.height-3) }

// View draws the screen.
func (m *screen) View() tea.View {
	var lines []string
	name := max(20, m.width-10-sparkWidth-4)
	for _, s := range m.list {
		lines = append(lines, m.line(s.name, &s.rate, name, bold))
		for _, b := range s.sorted() {
			lines = append(lines, m.line("  "+address(b.addr), &b.rate, name, ""))
		}
	}
	m.scroll = max(0, min(m.scroll, len(lines)-m.body()))
	shown := lines[m.scroll:min(len(lines), m.scroll+m.body())]
	heading := fmt.Sprintf("%-*s %10s  %s", name, "SERVICE, BACKEND", "CONN/S", "LATEST")
	if len(lines) == 0 {
		shown = []string{"the kernel holds no services, or the first reading is under way"}
	}
	text := m.tool.paint(faint, clip(heading, m.width)) + "\n" + strings.Join(shown, "\n") +
		strings.Repeat("\n", max(1, m.body()-len(shown)+1)) +
		m.tool.paint(faint, clip(fmt.Sprintf("%s, read every %v   q quit, ↑ ↓ scroll", count(len(m.list), "service"), m.how.interval), m.width))
	v := tea.NewView(text)
	v.AltScreen = true
	return v
}

// sparkWidth is the width of a sparkline.
const sparkWidth = 30

func (m *screen) line(name string, r *rate, width int, style string) string {
	text := fmt.Sprintf("%-*s %10.1f  %s", width, clip(name, width), r.last(), sparkline(r.samples, sparkWidth))
	text = clip(text, m.width)
	if style != "" {
		text = m.tool.paint(style, text)
	}
	return text
}

// clip shortens a text to a width.
func clip(s string, width int) string {
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	return string(runes[:max(0, width-1)]) + "…"
}
