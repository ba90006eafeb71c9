package server

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter bounds requests per key. It forgets keys that have been quiet, so that strangers can't fill the memory.
type limiter struct {
	mu      sync.Mutex
	perSec  rate.Limit
	burst   int
	now     func() time.Time
	current map[string]*rate.Limiter
	before  map[string]*rate.Limiter
}

// maxKeys is how many keys one generation has. Two generations are kept; a key that is used moves to the current one.
const maxKeys = 50_000

// burstSeconds is how many seconds' worth of requests may come at once.
const burstSeconds = 10

func newLimiter(perSec float64, now func() time.Time) *limiter {
	return &limiter{perSec: rate.Limit(perSec), burst: max(1, int(perSec*burstSeconds)), now: now, current: map[string]*rate.Limiter{}}
}

func (l *limiter) allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.current[key]
	if r == nil {
		if r = l.before[key]; r == nil {
			r = rate.NewLimiter(l.perSec, l.burst)
		}
		if len(l.current) >= maxKeys {
			l.before, l.current = l.current, map[string]*rate.Limiter{}
		}
		l.current[key] = r
	}
	return r.AllowN(l.now(), 1)
}

// clientAddress is the sender's IP address. Headers that claim another one are not believed; anyone can send them.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// clientNetwork is whom a bound on strangers counts: the address, and of an IPv6 address the network of 64 bits, since
// whoever has one address of such a network has them all.
func clientNetwork(r *http.Request) string {
	text := clientAddress(r)
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Unmap().Is4() {
		return text
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked().String()
}
