package rollout

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
)

const minutesOfDay = 24 * 60

// weekdays are the names of days, as time.Weekday counts them.
var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// zoneName bounds the names of time zones before they become paths of files below the time zone database.
var zoneName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$`)

// window is a menderapi.Window, read. It begins at minute from of its days and lasts until minute to, of the same day or,
// where that is not after from, of the next one. Both are what clocks on the wall show, so a window of 01:00 to 04:00 is an
// hour shorter or longer when the clocks change, and one of 02:00 to 03:00 may not come on that day.
type window struct {
	days     [7]bool
	from, to int
	zone     *time.Location
}

// readWindow reads a window; what is wrong with it is a *PolicyError.
func readWindow(w menderapi.Window) (window, error) {
	out := window{to: minutesOfDay}
	for _, name := range w.Days {
		day := slices.Index(weekdays, name)
		switch {
		case day < 0:
			return out, bad("the window has day %q; days are mon, tue, wed, thu, fri, sat and sun", clip(name))
		case out.days[day]:
			return out, bad("the window has day %q twice", name)
		}
		out.days[day] = true
	}
	if len(w.Days) == 0 {
		out.days = [7]bool{true, true, true, true, true, true, true}
	}
	if (w.From == "") != (w.To == "") || w.From == "" && len(w.Days) == 0 {
		return out, bad("the window must have days, or from and to, or both")
	}
	if w.From != "" {
		var ok1, ok2 bool
		out.from, ok1 = minuteOf(w.From)
		out.to, ok2 = minuteOf(w.To)
		switch {
		case !ok1 || out.from == minutesOfDay || !ok2:
			return out, bad("from and to of the window must be times such as 22:30")
		case out.from == out.to:
			return out, bad("from and to of the window are the same time")
		}
	}
	zone, err := loadZone(w.Timezone)
	if err != nil {
		return out, err
	}
	out.zone = zone
	return out, nil
}

func loadZone(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	if len(name) > 64 || !zoneName.MatchString(name) || name == "Local" {
		return nil, bad("timezone %q is not a name such as Europe/Berlin", clip(name))
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, bad("timezone %q is not in the IANA database", name)
	}
	return zone, nil
}

// minuteOf reads HH:MM, with 24:00 for the end of the day.
func minuteOf(text string) (int, bool) {
	hour, minute, ok := strings.Cut(text, ":")
	if !ok || len(hour) != 2 || len(minute) != 2 || strings.Trim(hour+minute, "0123456789") != "" {
		return 0, false
	}
	n := (int(hour[0]-'0')*10+int(hour[1]-'0'))*60 + int(minute[0]-'0')*10 + int(minute[1]-'0')
	return n, minute < "60" && n <= minutesOfDay
}

func (w window) open(t time.Time) bool {
	t = t.In(w.zone)
	now, today := t.Hour()*60+t.Minute(), t.Weekday()
	if w.from < w.to {
		return w.days[today] && now >= w.from && now < w.to
	}
	return w.days[today] && now >= w.from || w.days[(today+6)%7] && now < w.to
}

// opens is when the window opens next, if it is not open. It looks at every minute of what is at most eight days, which is
// simple and right also where clocks change.
func (w window) opens(t time.Time) time.Time {
	t = t.Truncate(time.Minute)
	for range 8 * minutesOfDay {
		if t = t.Add(time.Minute); w.open(t) {
			return t.UTC()
		}
	}
	return time.Time{}
}

// WindowOpen tells whether devices may begin at a time. A window that cannot be read, which creating the deployment would
// have refused, is never open: to do nothing is what a window is for.
func WindowOpen(p menderapi.Policy, t time.Time) bool {
	if p.Window == nil {
		return true
	}
	w, err := readWindow(*p.Window)
	return err == nil && w.open(t)
}

// windowOpens is when the closed window opens next; zero when that is not known.
func windowOpens(p menderapi.Policy, t time.Time) time.Time {
	w, err := readWindow(*p.Window)
	if err != nil {
		return time.Time{}
	}
	return w.opens(t)
}
