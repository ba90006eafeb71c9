package server

import (
	"errors"
	"net/http"

	"github.com/twinkeel/twinkeel/internal/menderapi"
	"github.com/twinkeel/twinkeel/server/internal/auth"
	"github.com/twinkeel/twinkeel/server/internal/store"
)

// maxAuthBody bounds an authentication request: anyone may send one. A key of 4096 bits and an identity need 2 KiB.
const maxAuthBody = 16 << 10

var errDeviceToken = refuse(http.StatusUnauthorized, "dev auth: unauthorized")

// checkDevice lets accepted devices through. The token alone is not enough: a rejection works at once.
func (s *Server) checkDevice(r *http.Request) error {
	token := bearer(r)
	if token == "" {
		return errDeviceToken
	}
	set, id, err := s.devices.Check(token)
	if err != nil {
		return errDeviceToken
	}
	switch current, err := s.store.AcceptedDevice(r.Context(), set); {
	case errors.Is(err, store.ErrNotFound):
		return errDeviceToken
	case err != nil:
		return err
	case current != id:
		return errDeviceToken
	}
	if !s.deviceRate.allow(id) {
		return refuse(http.StatusTooManyRequests, "this device asks too often")
	}
	callOf(r).device = id
	s.seenDevices.add(id, s.now())
	return nil
}

// authRequest gives a token to a device that proves who it is and was accepted. A new one is recorded to wait for that.
func (s *Server) authRequest(w http.ResponseWriter, r *http.Request) error {
	from := clientAddress(r)
	if !s.authRate.allow(clientNetwork(r)) {
		return refuse(http.StatusTooManyRequests, "too many authentication requests from this address")
	}
	body, err := s.body(w, r, maxAuthBody)
	if err != nil {
		return err
	}
	signature := r.Header.Get(menderapi.HeaderSignature)
	if signature == "" {
		return invalid("missing request signature header")
	}
	req, err := auth.VerifyDevice(body, signature)
	if errors.Is(err, auth.ErrSignature) {
		return refuse(http.StatusUnauthorized, "dev auth: unauthorized: %v", err)
	}
	if err != nil {
		return invalid("%v", err)
	}
	now := s.now()
	state, err := s.store.Authenticate(r.Context(),
		store.Claim{Identity: req.Identity, IdentityHash: req.IdentityHash, PubKey: req.PubKey, Fingerprint: req.Fingerprint, Address: from},
		store.Admission{Accept: s.config.AutoAccept, MaxPending: s.limits.PendingDevices, MaxKeys: s.limits.KeysPerDevice}, now)
	if errors.Is(err, store.ErrFull) {
		s.log.Warn("a new device or key was turned away: too many wait already", "request", callOf(r).id, "from", from)
		return refuse(http.StatusUnauthorized, "dev auth: unauthorized: too many devices or keys wait for acceptance")
	}
	if err != nil {
		return err
	}
	callOf(r).device = state.Device
	s.seenDevices.add(state.Device, now)
	if state.New {
		s.log.Info("new device key", "request", callOf(r).id, "device", state.Device, "auth_set", state.AuthSet,
			"fingerprint", req.Fingerprint, "status", state.Status, "from", from)
	}
	switch state.Status {
	case menderapi.AuthAccepted:
	case menderapi.AuthPending:
		return refuse(http.StatusUnauthorized, "dev auth: unauthorized: the device's key waits for acceptance")
	default:
		return refuse(http.StatusUnauthorized, "dev auth: unauthorized: the device's key was rejected")
	}
	token, err := s.devices.Issue(state.AuthSet, state.Device, now.Add(s.limits.DeviceToken))
	if err != nil {
		return err
	}
	return writeToken(w, token)
}

func writeToken(w http.ResponseWriter, token string) error {
	w.Header().Set("Content-Type", menderapi.ContentTypeJWT)
	_, err := w.Write([]byte(token))
	return ignoreHangup(err)
}
