package signing

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/twinkeel/twinkeel/signing/verify"
)

const (
	socketVariable = "SSH_AUTH_SOCK"
	// agentLimit leaves a person time to confirm (ssh-add -c) or to type a PIN.
	agentLimit = 2 * time.Minute
	// maxAgentMessage is what fits into a request to OpenSSH's agent (256 KiB) beside the key.
	maxAgentMessage = 240 << 10
)

// openAgent finds a key in ssh-agent (draft-ietf-sshm-ssh-agent). The agent signs a message as it is, so an RSA key with the flag
// rsa-sha2-256 and a P-256 key make Mender's signatures.
func openAgent(ctx context.Context, ref string, o Options) (Signer, error) {
	wanted, name := strings.TrimPrefix(ref, agentScheme), printable(ref)
	socket := o.getenv(socketVariable)
	if socket == "" {
		return nil, &KeyError{
			Path: name, Reason: socketVariable + " is not set, so there is no ssh-agent to ask",
			Advice: "start one and give it the key: eval $(ssh-agent) && ssh-add FILE",
		}
	}
	failed := func(doing string, err error) error {
		return &KeyError{Path: name, Reason: doing + ": " + oneLine(err.Error(), o), Advice: "see what ssh-add -l says", Err: ctx.Err()}
	}
	var keys []*agent.Key
	if err := withAgent(ctx, socket, func(a agent.ExtendedAgent) (err error) {
		keys, err = a.List()
		return err
	}); err != nil {
		return nil, failed("asking ssh-agent for its keys", err)
	}
	key, public, err := chooseAgentKey(keys, wanted)
	if err != nil {
		var ke *KeyError
		if errors.As(err, &ke) {
			ke.Path = name
		}
		return nil, err
	}
	e, err := newExternal(name, public)
	if err != nil {
		return nil, err
	}
	return &messageSigner{external: e, sign: func(ctx context.Context, message []byte) ([]byte, error) {
		if len(message) > maxAgentMessage {
			return nil, &KeyError{Path: name, Reason: fmt.Sprintf("ssh-agent takes messages of at most %d KiB; this one has %d", maxAgentMessage>>10, len(message)>>10)}
		}
		var sig *ssh.Signature
		if err := withAgent(ctx, socket, func(a agent.ExtendedAgent) (err error) {
			var flags agent.SignatureFlags
			if _, isRSA := public.(*rsa.PublicKey); isRSA {
				flags = agent.SignatureFlagRsaSha256
			}
			sig, err = a.SignWithFlags(key, message, flags)
			return err
		}); err != nil {
			return nil, failed("signing with ssh-agent", err)
		}
		return fromSSH(sig)
	}}, nil
}

// withAgent connects for one request, so that an agent that restarts between two is no failure.
func withAgent(ctx context.Context, socket string, f func(agent.ExtendedAgent) error) error {
	ctx, cancel := context.WithTimeout(ctx, agentLimit)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", socketVariable, socket, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := f(agent.NewClient(conn)); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}

// chooseAgentKey finds the one key that is meant. Certificates and keys of kinds that Mender clients do not know are passed over,
// unless one is asked for by name.
func chooseAgentKey(keys []*agent.Key, wanted string) (*agent.Key, crypto.PublicKey, error) {
	type candidate struct {
		key    *agent.Key
		public crypto.PublicKey
		err    error
	}
	var found []candidate
	var list []string
	for _, k := range keys {
		c := candidate{key: k}
		c.public, c.err = agentPublic(k)
		fingerprint := ssh.FingerprintSHA256(k)
		list = append(list, printable(fmt.Sprintf("%s %s (%s)", fingerprint, k.Comment, k.Format)))
		switch {
		case wanted == "" && c.err == nil, wanted != "" && (wanted == fingerprint || wanted == k.Comment):
			found = append(found, c)
		}
	}
	if len(list) > 20 {
		list = append(list[:20], "…")
	}
	have := "it has " + strings.Join(list, ", ")
	if len(keys) == 0 {
		have = "give it one with: ssh-add FILE (or unlock the agent)"
	}
	switch {
	case len(keys) == 0:
		return nil, nil, &KeyError{Reason: "ssh-agent has no keys", Advice: have}
	case len(found) == 0 && wanted == "":
		return nil, nil, &KeyError{Reason: "ssh-agent has no key that can be used: Mender clients verify only RSA and ECDSA P-256", Advice: have}
	case len(found) == 0:
		return nil, nil, &KeyError{Reason: "ssh-agent has no key with this fingerprint or comment", Advice: have}
	case len(found) > 1:
		return nil, nil, &KeyError{Reason: fmt.Sprintf("%d keys in ssh-agent fit", len(found)), Advice: "name one as ssh-agent:SHA256:…; " + have}
	case found[0].err != nil:
		var ve *verify.KeyError
		if errors.As(found[0].err, &ve) {
			return nil, nil, &KeyError{Reason: ve.Reason, Err: found[0].err}
		}
		return nil, nil, &KeyError{Reason: fmt.Sprintf("a key of the kind %s cannot be used: Mender clients verify only RSA and ECDSA P-256", printable(found[0].key.Format))}
	}
	return found[0].key, found[0].public, nil
}

func agentPublic(k *agent.Key) (crypto.PublicKey, error) {
	public, err := ssh.ParsePublicKey(k.Blob)
	if err != nil {
		return nil, err
	}
	if t := public.Type(); t != ssh.KeyAlgoRSA && t != ssh.KeyAlgoECDSA256 && t != ssh.KeyAlgoECDSA384 && t != ssh.KeyAlgoECDSA521 && t != ssh.KeyAlgoED25519 {
		return nil, errors.New("unsuitable") // certificates and keys of security tokens: their signatures have another form
	}
	plain, ok := public.(ssh.CryptoPublicKey)
	if !ok {
		return nil, errors.New("unsuitable")
	}
	key, err := verify.NewKey(plain.CryptoPublicKey())
	return key.Public, err
}

// fromSSH takes a signature out of its frame (RFC 4253, 6.6; RFC 5656, 3.1.2; RFC 8332, 3).
func fromSSH(sig *ssh.Signature) ([]byte, error) {
	switch sig.Format {
	case ssh.KeyAlgoRSASHA256:
		return sig.Blob, nil
	case ssh.KeyAlgoECDSA256:
		var rs struct{ R, S *big.Int }
		if err := ssh.Unmarshal(sig.Blob, &rs); err != nil {
			return nil, &SignatureError{Reason: "ssh-agent returned a damaged signature"}
		}
		return rawP256(rs.R, rs.S)
	case ssh.KeyAlgoRSA:
		return nil, &SignatureError{
			Reason: "ssh-agent signed with SHA-1: it is too old for rsa-sha2-256, and Mender clients verify only SHA-256",
			Advice: "use another agent or a P-256 key",
		}
	}
	return nil, &SignatureError{Reason: fmt.Sprintf("ssh-agent returned a signature of the kind %q", printable(sig.Format))}
}
