package vdevice

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// Console is where a device's messages go, each line behind its name. Several devices may share the writer.
type Console struct {
	w      io.Writer
	prefix string
	warn   [2]string
	mu     *sync.Mutex
}

// consoleMutexes keeps lines of devices that share a writer whole.
var consoleMutex sync.Mutex

// NewConsole writes to w. With color the prefix has the colour that belongs to the name, and warnings are yellow.
func NewConsole(w io.Writer, name string, color bool) *Console {
	c := &Console{w: w, prefix: "[" + name + "] ", mu: &consoleMutex}
	if color {
		shades := []int{36, 35, 34, 32, 33}
		n := 0
		for _, b := range []byte(name) {
			n += int(b)
		}
		c.prefix = fmt.Sprintf("\x1b[%dm%s\x1b[0m", shades[n%len(shades)], c.prefix)
		c.warn = [2]string{"\x1b[33m", "\x1b[0m"}
	}
	return c
}

func (c *Console) printf(format string, args ...any) {
	c.line([]byte(fmt.Sprintf(format, args...)))
}

func (c *Console) warnf(format string, args ...any) {
	c.line([]byte(c.warn[0] + fmt.Sprintf(format, args...) + c.warn[1]))
}

func (c *Console) line(text []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.w, "%s%s\n", c.prefix, text)
}

// lineWriter cuts what a program prints into lines.
type lineWriter struct {
	c      *Console
	prefix string
	rest   []byte
}

func (c *Console) lines(prefix string) *lineWriter { return &lineWriter{c: c, prefix: prefix} }

// maxLine bounds what a program can make this one keep.
const maxLine = 16 << 10

func (l *lineWriter) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 && len(l.rest) <= maxLine {
			return len(p), nil
		}
		if i < 0 {
			i = maxLine
		}
		l.c.line(append([]byte(l.prefix), l.rest[:i]...))
		l.rest = l.rest[min(i+1, len(l.rest)):]
	}
}

func (l *lineWriter) flush() {
	if len(l.rest) > 0 {
		l.c.line(append([]byte(l.prefix), l.rest...))
		l.rest = nil
	}
}
