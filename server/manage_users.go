package server

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/store"
)

var (
	errUserToken = refuse(http.StatusUnauthorized, "unauthorized")
	errLogin     = refuse(http.StatusUnauthorized, "unauthorized: wrong name or password")
)

// maxTokenLife is Mender's bound for a personal access token that expires.
const maxTokenLife = 365 * 24 * time.Hour

// checkUser lets holders of a session or an access token through, as long as it was not revoked.
func (s *Server) checkUser(r *http.Request) error {
	token := bearer(r)
	if token == "" {
		return errUserToken
	}
	id, subject, err := s.users.Check(token)
	if err != nil {
		return errUserToken
	}
	switch owner, err := s.store.TokenOwner(r.Context(), id, s.now()); {
	case errors.Is(err, store.ErrNotFound):
		return errUserToken
	case err != nil:
		return err
	case owner != subject:
		return errUserToken
	}
	c := callOf(r)
	c.user, c.token = subject, id
	s.seenTokens.add(id, s.now())
	return nil
}

// login exchanges a name and a password for a token.
func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	if !s.loginRate.allow(clientNetwork(r)) {
		return refuse(http.StatusTooManyRequests, "too many logins from this address")
	}
	name, password, ok := r.BasicAuth()
	if !ok {
		return errLogin
	}
	id, hash, err := s.store.Password(r.Context(), strings.ToLower(name))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	right, err := s.passwords.Check(r.Context(), password, hash)
	if err != nil {
		return err
	}
	if !right {
		s.log.Warn("failed login", "request", callOf(r).id, "from", clientAddress(r))
		return errLogin
	}
	now := s.now()
	expires := now.Add(s.limits.Session)
	session, err := s.store.AddSession(r.Context(), id, now, expires)
	if err != nil {
		return err
	}
	token, err := s.users.Issue(session, id, expires)
	if err != nil {
		return err
	}
	c := callOf(r)
	c.user, c.token = id, session
	return writeToken(w, token)
}

// logout ends the session of the token that it is called with.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	c := callOf(r)
	if err := s.store.DeleteToken(r.Context(), c.user, c.token); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (s *Server) me(w http.ResponseWriter, r *http.Request) error {
	u, err := s.store.User(r.Context(), callOf(r).user)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, u)
}

func (s *Server) listTokens(w http.ResponseWriter, r *http.Request) error {
	tokens, err := s.store.Tokens(r.Context(), callOf(r).user)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, list(tokens))
}

func (s *Server) newToken(w http.ResponseWriter, r *http.Request) error {
	var req menderapi.NewToken
	if err := s.decode(w, r, &req); err != nil {
		return err
	}
	if req.ExpiresIn < 0 || req.ExpiresIn > int64(maxTokenLife/time.Second) {
		return invalid("expires_in must be 0 (never) to %d seconds", int64(maxTokenLife/time.Second))
	}
	if req.Name == "" || len(req.Name) > 255 {
		return invalid("name must have 1 to 255 bytes")
	}
	token, err := s.createToken(r.Context(), callOf(r).user, req.Name, time.Duration(req.ExpiresIn)*time.Second)
	var exists *TokenExistsError
	switch {
	case errors.As(err, &exists):
		return refuse(http.StatusConflict, "%v", err)
	case errors.Is(err, store.ErrFull):
		return refuse(http.StatusUnprocessableEntity, "a user can have %d tokens", store.MaxTokens)
	case err != nil:
		return err
	}
	return writeToken(w, token)
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r, "id")
	if err != nil {
		return err
	}
	if err := s.store.DeleteToken(r.Context(), callOf(r).user, id); err != nil {
		return err
	}
	return noContent(w)
}
