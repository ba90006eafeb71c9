package server

import "context"

// TickForTest does what the scheduler does once a second.
func (s *Server) TickForTest(ctx context.Context) error {
	if err := s.flushSeen(ctx); err != nil {
		return err
	}
	return s.store.Tick(ctx, s.now())
}
