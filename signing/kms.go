package signing

import (
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/kms/aws"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"
	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// The limits of talking to a service. Looking for credentials takes a few seconds where there are none, because the services
// of virtual machines are asked.
const (
	kmsOpenLimit = 20 * time.Second
	kmsSignLimit = 60 * time.Second
)

// store is a key management service. Importing its package registers it with sigstore.
type store struct {
	scheme string
	name   string
	form   string
	valid  func(ref string) error
	advice string
	// before looks for what is missing without asking the network; may be nil
	before func(o Options) error
	// algorithm says which keys to use when one signs with something else than SHA-256
	algorithm string
}

var stores = []store{
	{
		scheme: aws.ReferenceScheme, name: "AWS KMS", valid: aws.ValidReference,
		form: "awskms://[ENDPOINT]/ID, awskms:///ARN or awskms:///alias/NAME",
		advice: "set AWS_REGION, and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY or AWS_PROFILE (or use the role of the machine); " +
			"the key's policy must allow kms:DescribeKey, kms:GetPublicKey and kms:Sign",
		algorithm: "use a key of the kind ECC_NIST_P256 or RSA_3072",
	},
	{
		scheme: gcp.ReferenceScheme, name: "Google Cloud KMS", valid: gcp.ValidReference,
		form: "gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY[/cryptoKeyVersions/N]",
		advice: "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, or run: gcloud auth application-default login; " +
			"the account needs the roles cloudkms.viewer and cloudkms.signerVerifier",
		before:    credentialsFile,
		algorithm: "use a key with the algorithm EC_SIGN_P256_SHA256 or RSA_SIGN_PKCS1_3072_SHA256",
	},
	{
		scheme: azure.ReferenceScheme, name: "Azure Key Vault", valid: azure.ValidReference,
		form: "azurekms://VAULT.vault.azure.net/KEY[/VERSION]",
		advice: "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or run: az login; " +
			"the account needs the permissions get and sign on keys",
		algorithm: "use a P-256 or RSA-2048 key: with larger RSA keys this client of Azure signs only longer hashes",
	},
	{
		scheme: hashivault.ReferenceScheme, name: "Vault", valid: hashivault.ValidReference,
		form: "hashivault://KEY, the name of a key in the transit engine",
		advice: "set VAULT_ADDR and VAULT_TOKEN (or BAO_ADDR and BAO_TOKEN), and TRANSIT_SECRET_ENGINE_PATH when the engine is not at transit; " +
			"the token's policy must allow read on transit/keys/KEY and update on transit/sign/KEY/*",
		before:    vaultAddress,
		algorithm: "use a key of the type ecdsa-p256 or rsa-3072",
	},
}

func storeOf(ref string) *store {
	for i := range stores {
		if strings.HasPrefix(ref, stores[i].scheme) {
			return &stores[i]
		}
	}
	return nil
}

type kmsKey struct {
	client kms.SignerVerifier
	public crypto.PublicKey
	hash   crypto.Hash
}

func openKMS(ctx context.Context, st *store, ref string, o Options) (Signer, error) {
	name := printable(ref)
	if err := st.valid(ref); err != nil {
		return nil, &KeyError{Path: name, Reason: "it does not name a key of " + st.name, Advice: "write " + st.form}
	}
	if st.before != nil {
		if err := st.before(o); err != nil {
			return nil, &KeyError{Path: name, Reason: err.Error(), Advice: st.advice}
		}
	}
	var auth options.RPCAuth
	if st.scheme == hashivault.ReferenceScheme {
		auth = vaultAuth(o)
	}
	failed := func(doing string, limit time.Duration, err error) error {
		if errors.Is(err, context.DeadlineExceeded) {
			return &KeyError{
				Path: name, Reason: fmt.Sprintf("%s gave no answer within %s while %s", st.name, limit, doing),
				Advice: st.advice, Err: err,
			}
		}
		if errors.Is(err, context.Canceled) {
			return err
		}
		// The client's own error is not wrapped: it may quote a request.
		return &KeyError{Path: name, Reason: doing + ": " + oneLine(err.Error(), o, auth.Token), Advice: st.advice}
	}
	limit := cmp.Or(o.kmsLimit, kmsOpenLimit)
	key, err := within(ctx, limit, func(ctx context.Context) (kmsKey, error) {
		var rpc []signature.RPCOption
		if auth != (options.RPCAuth{}) {
			rpc = append(rpc, options.WithRPCAuthOpts(auth))
		}
		client, err := kms.Get(ctx, ref, crypto.SHA256, rpc...)
		if err != nil {
			return kmsKey{}, err
		}
		public, err := client.PublicKey(options.WithContext(ctx))
		if err != nil {
			return kmsKey{}, err
		}
		_, opts, err := client.CryptoSigner(ctx, nil)
		if err != nil {
			return kmsKey{}, err
		}
		return kmsKey{client: client, public: public, hash: opts.HashFunc()}, nil
	})
	if err != nil {
		return nil, failed("asking "+st.name+" for the public key", limit, err)
	}
	e, err := newExternal(name, key.public)
	if err != nil {
		var ke *KeyError
		if errors.As(err, &ke) {
			ke.Advice = st.algorithm
		}
		return nil, err
	}
	if key.hash != crypto.SHA256 {
		return nil, &KeyError{
			Path: name, Reason: fmt.Sprintf("%s signs with this %s key only %s; Mender clients verify only SHA-256", st.name, e.key.Algorithm, key.hash),
			Advice: st.algorithm,
		}
	}
	return &digestSigner{external: e, sign: func(ctx context.Context, digest [sha256.Size]byte) ([]byte, error) {
		sig, err := within(ctx, kmsSignLimit, func(ctx context.Context) ([]byte, error) {
			return key.client.SignMessage(nil, options.WithContext(ctx), options.WithDigest(digest[:]), options.WithCryptoSignerOpts(crypto.SHA256))
		})
		if err != nil {
			return nil, failed("signing with "+st.name, kmsSignLimit, err)
		}
		return sig, nil
	}}, nil
}

func vaultAddress(o Options) error {
	auth := vaultAuth(o)
	switch {
	case auth.Address == "":
		return errors.New("neither VAULT_ADDR nor BAO_ADDR says where Vault is")
	case auth.Token == "" && !vaultHelper(o):
		return errors.New("there is no token for Vault: neither VAULT_TOKEN nor BAO_TOKEN is set, and there is no ~/.vault-token")
	}
	return nil
}

// vaultAuth finds what Vault's own client would; sigstore logs a line when it has to.
func vaultAuth(o Options) options.RPCAuth {
	first := func(names ...string) string {
		for _, n := range names {
			if v := o.getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	auth := options.RPCAuth{
		Address: first("VAULT_ADDR", "BAO_ADDR"), Token: first("VAULT_TOKEN", "BAO_TOKEN"), Path: o.getenv("TRANSIT_SECRET_ENGINE_PATH"),
	}
	if home := o.getenv("HOME"); auth.Token == "" && home != "" && !vaultHelper(o) {
		if f, err := os.Open(filepath.Join(home, ".vault-token")); err == nil {
			token, _ := io.ReadAll(io.LimitReader(f, 64<<10))
			f.Close()
			auth.Token = strings.TrimSpace(string(token))
		}
	}
	return auth
}

// vaultHelper tells whether ~/.vault may name a program that gives the token.
func vaultHelper(o Options) bool {
	home := o.getenv("HOME")
	if home == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(home, ".vault"))
	return err == nil
}

// credentialsFile notices a wrong path before Google's library starts.
func credentialsFile(o Options) error {
	if path := o.getenv("GOOGLE_APPLICATION_CREDENTIALS"); path != "" {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("the file %s, which GOOGLE_APPLICATION_CREDENTIALS names, cannot be read", printable(path))
		}
	}
	return nil
}
