package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backoff says how long to wait after the n-th failure in a row: doubling from first to limit, with jitter so that a
// fleet whose server was down does not come back in step.
type backoff struct {
	first time.Duration
	limit time.Duration
}

func (b backoff) after(failures int) time.Duration {
	d := min(b.first, b.limit)
	for range min(failures, 40) - 1 {
		if d *= 2; d >= b.limit {
			d = b.limit
			break
		}
	}
	return d/2 + rand.N(d/2+1)
}
