package server

import (
	"context"
	"errors"
	"sync"
	"time"
)

// The rhythm of the server's own work.
const (
	tickEvery    = time.Second
	cleanEvery   = time.Hour
	flushTimeout = 5 * time.Second
)

// seen collects when something was last heard of. It is written once a second: a poll must not cost a write, and a crash
// costs one second of it.
type seen struct {
	mu    sync.Mutex
	times map[string]time.Time
}

func (s *seen) add(id string, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times = map[string]time.Time{}
	}
	s.times[id] = t
}

func (s *seen) take() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.times
	s.times = nil
	return t
}

func (s *Server) flushSeen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	return errors.Join(s.store.TouchDevices(ctx, s.seenDevices.take()), s.store.TouchTokens(ctx, s.seenTokens.take()))
}

// schedule works until ctx is done.
func (s *Server) schedule(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	clean := time.NewTicker(cleanEvery)
	defer clean.Stop()
	if err := s.store.Settle(ctx, s.now()); err != nil && ctx.Err() == nil {
		s.log.Error("advancing rollouts", "error", err)
	}
	for {
		select {
		case <-ctx.Done():
			if err := s.flushSeen(context.WithoutCancel(ctx)); err != nil {
				s.log.Error("recording when devices were seen", "error", err)
			}
			return
		case <-tick.C:
			if err := s.store.Tick(ctx, s.now()); err != nil && ctx.Err() == nil {
				s.log.Error("advancing rollouts", "error", err)
			}
			if err := s.flushSeen(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("recording when devices were seen", "error", err)
			}
		case <-clean.C:
			err := errors.Join(s.store.DropSilentPending(ctx, s.now().Add(-s.limits.PendingFor), s.now()),
				s.store.DropExpiredTokens(ctx, s.now()), s.store.Optimize(ctx))
			if err != nil && ctx.Err() == nil {
				s.log.Error("cleaning up", "error", err)
			}
		}
	}
}
