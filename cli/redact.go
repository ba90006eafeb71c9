package cli

import (
	"io"

	"github.com/twinkeel/twinkeel/internal/diag"
)

// redactedWriter hides the values of sensitive variables in everything that passes. Secrets become known when a
// pipeline is loaded; until then bytes pass unchanged.
type redactedWriter struct {
	target  io.Writer // what was given to Run, to ask it whether it is a terminal
	w       io.Writer
	r       *diag.Redactor
	secrets []string
	err     error // the first that a write gave: what is lost must not go unsaid
}

func newRedactedWriter(w io.Writer) *redactedWriter { return &redactedWriter{target: w, w: w} }

func (r *redactedWriter) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if r.err == nil {
		r.err = err
	}
	return n, err
}

func (r *redactedWriter) hide(secrets []string) {
	if len(secrets) == 0 {
		return
	}
	r.flush()
	r.r = diag.NewRedactor(r.target, secrets)
	r.w, r.secrets = r.r, secrets
}

// redacted hides the secrets in a text that goes to the target by another way.
func (r *redactedWriter) redacted(text string) string {
	return diag.Redact(text, r.secrets)
}

func (r *redactedWriter) flush() {
	if r.r != nil {
		if err := r.r.Flush(); r.err == nil {
			r.err = err
		}
	}
}
