package edit

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadDevices(t *testing.T) {
	t.Parallel()
	got, err := ReadDevices(strings.NewReader("\ufeffserial, mac\r\nA1,02:00\n\"B,2\",\" 03:00 \"\n"), "d.csv")
	if err != nil {
		t.Fatal(err)
	}
	want := &Devices{Columns: []string{"serial", "mac"}, Rows: [][]string{{"A1", "02:00"}, {"B,2", "03:00"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":       {"", "lists no device"},
		"no device":     {"serial\n", "lists no device"},
		"ragged":        {"a,b\n1\n", "line 2: wrong number of fields"},
		"a quote":       {"a\nx\"y\n", "line 2"},
		"no value":      {"a,b\n1,\n", "line 2: no value for b"},
		"column twice":  {"a,a\n1,2\n", "two columns"},
		"column name":   {"a b\n1\n", "no name for a column"},
		"control":       {"a\nx\x1b[2J\n", "cannot be printed"},
		"new line":      {"a\n\"x\ny\"\n", "cannot be printed"},
		"not UTF-8":     {"a\n\xff\n", "cannot be printed"},
		"long value":    {"a\n" + strings.Repeat("x", maxValue+1), "more than"},
		"many columns":  {strings.TrimSuffix(strings.Repeat("a,", maxColumns+1), ",") + "\n", "columns"},
		"many devices":  {"a\n" + strings.Repeat("1\n", MaxDevices+1), "more than 10000 devices"},
		"a large file":  {strings.Repeat("a", maxDeviceList+1), "more than"},
		"only quotes":   {"a\n\"\"\n", "no value"},
		"a bare header": {"serial,mac", "lists no device"},
	} {
		_, err := ReadDevices(strings.NewReader(c.text), "d.csv")
		var list *ListError
		if !errors.As(err, &list) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "d.csv") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestExpand(t *testing.T) {
	t.Parallel()
	d := &Devices{Columns: []string{"serial", "mac", "bad", "dots"}}
	row := []string{"A1", "02:00", "../x", ".."}
	for template, want := range map[string]string{
		"{serial}-{mac}": "A1-02:00", "root=${serial} {serial}": "root=${serial} A1", "{}": "{}", "{ serial }": "{ serial }", "plain": "plain",
	} {
		if got, err := d.Expand(template, row); err != nil || got != want {
			t.Errorf("%s: %q %v", template, got, err)
		}
	}
	if _, err := d.Expand("{nosuch}", row); err == nil || !strings.Contains(err.Error(), "there are serial, mac") {
		t.Errorf("%v", err)
	}
	if got, err := d.ExpandName("b-{mac}.img", row); err != nil || got != "b-02-00.img" {
		t.Errorf("%q %v", got, err)
	}
	for _, template := range []string{"{bad}", "x/{serial}", "{dots}", ".hidden", "", strings.Repeat("x", 300)} {
		if got, err := d.ExpandName(template, row); err == nil {
			t.Errorf("%s gives %q", template, got)
		}
	}
	if got, err := d.ExpandPath("local/{serial}.pem", row); err != nil || got != "local/A1.pem" {
		t.Errorf("%q %v", got, err)
	}
	for _, template := range []string{"local/{bad}", "local/{dots}/x"} {
		if got, err := d.ExpandPath(template, row); err == nil {
			t.Errorf("%s gives %q", template, got)
		}
	}
}

func FuzzReadDevices(f *testing.F) {
	f.Add("serial,mac\nA1,02\n", "b-{serial}")
	f.Add("a\n\"x\"\n", "{a}{b}")
	f.Fuzz(func(t *testing.T, text, template string) {
		d, err := ReadDevices(strings.NewReader(text), "d")
		if err != nil {
			return
		}
		for _, row := range d.Rows[:min(len(d.Rows), 10)] {
			if len(row) != len(d.Columns) {
				t.Fatal(fmt.Sprint(row))
			}
			if name, err := d.ExpandName(template, row); err == nil && (strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".")) {
				t.Fatalf("%q", name)
			}
		}
	})
}
