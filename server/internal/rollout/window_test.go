package rollout

import (
	"strings"
	"testing"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

func TestWindow(t *testing.T) {
	at := func(text string) time.Time {
		t.Helper()
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	nights := menderapi.Window{From: "22:00", To: "04:00"}
	berlin := menderapi.Window{From: "01:00", To: "04:00", Timezone: "Europe/Berlin"}
	for name, c := range map[string]struct {
		window menderapi.Window
		at     string
		open   bool
		opens  string // when it is closed
	}{
		"before":                     {nights, "2026-03-02T21:59:59Z", false, "2026-03-02T22:00:00Z"},
		"begins":                     {nights, "2026-03-02T22:00:00Z", true, ""},
		"after midnight":             {nights, "2026-03-03T03:59:59Z", true, ""},
		"ends":                       {nights, "2026-03-03T04:00:00Z", false, "2026-03-03T22:00:00Z"},
		"weekday":                    {menderapi.Window{Days: []string{"sat", "sun"}}, "2026-03-06T23:59:59Z", false, "2026-03-07T00:00:00Z"},
		"weekend":                    {menderapi.Window{Days: []string{"sat", "sun"}}, "2026-03-08T23:59:59Z", true, ""},
		"night of its day":           {menderapi.Window{Days: []string{"fri"}, From: "22:00", To: "04:00"}, "2026-03-07T03:00:00Z", true, ""},
		"night before its day":       {menderapi.Window{Days: []string{"fri"}, From: "22:00", To: "04:00"}, "2026-03-06T03:00:00Z", false, "2026-03-06T22:00:00Z"},
		"a week later":               {menderapi.Window{Days: []string{"mon"}, From: "08:00", To: "09:00"}, "2026-03-02T09:00:00Z", false, "2026-03-09T08:00:00Z"},
		"until midnight":             {menderapi.Window{From: "20:00", To: "24:00"}, "2026-03-02T23:59:00Z", true, ""},
		"until midnight, after":      {menderapi.Window{From: "20:00", To: "24:00"}, "2026-03-03T00:00:00Z", false, "2026-03-03T20:00:00Z"},
		"from midnight to midnight":  {menderapi.Window{From: "00:00", To: "24:00"}, "2026-03-03T00:00:00Z", true, ""},
		"winter, in Berlin":          {berlin, "2026-01-15T00:30:00Z", true, ""},
		"summer, in Berlin":          {berlin, "2026-07-15T02:30:00Z", false, "2026-07-15T23:00:00Z"},
		"spring, the hour before":    {berlin, "2026-03-29T00:59:00Z", true, ""}, // 01:59, then it is 03:00
		"spring, the hour after":     {berlin, "2026-03-29T01:00:00Z", true, ""},
		"spring, the end":            {berlin, "2026-03-29T02:00:00Z", false, "2026-03-29T23:00:00Z"},
		"a window that spring skips": {menderapi.Window{Days: []string{"sun"}, From: "02:00", To: "03:00", Timezone: "Europe/Berlin"}, "2026-03-29T00:30:00Z", false, "2026-04-05T00:00:00Z"},
		"far from Greenwich":         {menderapi.Window{Days: []string{"mon"}, Timezone: "Pacific/Auckland"}, "2026-03-01T12:00:00Z", true, ""},
	} {
		policy := menderapi.Policy{Window: &c.window}
		if _, err := Complete(policy); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wait := WindowWait(policy, at(c.at))
		if WindowOpen(policy, at(c.at)) != c.open || (wait == nil) != c.open {
			t.Errorf("%s: open is %v at %s", name, !c.open, c.at)
			continue
		}
		if wait != nil && (wait.Until == nil || !wait.Until.Equal(at(c.opens))) {
			t.Errorf("%s: opens %v, want %s", name, wait.Until, c.opens)
		}
	}
	if !WindowOpen(menderapi.Policy{}, time.Time{}) {
		t.Error("no window is always open")
	}
	if WindowOpen(menderapi.Policy{Window: &menderapi.Window{Timezone: "No/Where", From: "00:00", To: "24:00"}}, time.Time{}) {
		t.Error("a window of a zone that is gone is open")
	}
}

func TestWindowRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		window menderapi.Window
		text   string
	}{
		"nothing":          {menderapi.Window{Timezone: "UTC"}, "days, or from and to"},
		"half":             {menderapi.Window{From: "22:00"}, "from and to"},
		"day":              {menderapi.Window{Days: []string{"monday"}}, `"monday"`},
		"day twice":        {menderapi.Window{Days: []string{"mon", "mon"}}, "twice"},
		"time":             {menderapi.Window{From: "22.00", To: "04:00"}, "such as 22:30"},
		"hour":             {menderapi.Window{From: "25:00", To: "04:00"}, "such as 22:30"},
		"minute":           {menderapi.Window{From: "22:60", To: "04:00"}, "such as 22:30"},
		"short":            {menderapi.Window{From: "8:00", To: "09:00"}, "such as 22:30"},
		"sign":             {menderapi.Window{From: "-8:00", To: "09:00"}, "such as 22:30"},
		"begins at 24:00":  {menderapi.Window{From: "24:00", To: "04:00"}, "such as 22:30"},
		"after the end":    {menderapi.Window{From: "22:00", To: "24:01"}, "such as 22:30"},
		"equal":            {menderapi.Window{From: "22:00", To: "22:00"}, "same time"},
		"unknown zone":     {menderapi.Window{Days: []string{"mon"}, Timezone: "Europe/Atlantis"}, "IANA"},
		"the server's own": {menderapi.Window{Days: []string{"mon"}, Timezone: "Local"}, "not a name"},
		"escape":           {menderapi.Window{Days: []string{"mon"}, Timezone: "../../etc/passwd"}, "not a name"},
		"absolute":         {menderapi.Window{Days: []string{"mon"}, Timezone: "/etc/localtime"}, "not a name"},
	} {
		_, err := Complete(menderapi.Policy{Window: &c.window})
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, err, c.text)
		}
	}
}
