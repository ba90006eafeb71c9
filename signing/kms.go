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
	"regexp"
	"strings"
	"time"

	"github.com/twinkeel/twinkeel/signing/helper"
)

// The limits of talking to a service. Looking for credentials takes a few seconds where there are none, because the services
// of virtual machines are asked.
const (
	kmsOpenLimit = 20 * time.Second
	kmsSignLimit = 60 * time.Second
)

// store is a key management service. Its client is in twinkeel-kms; what can be said without asking the service is said here.
type store struct {
	scheme string
	name   string
	form   string
	valid  *regexp.Regexp // what sigstore's client takes
	advice string
	// before looks for what is missing without asking the network; may be nil
	before func(o Options) error
	// algorithm says which keys to use when one signs with something else than SHA-256
	algorithm string
}

const vaultScheme = "hashivault://"

// The parts of AWS's names.
const (
	awsUUID = `m?r?k?-?[A-Fa-f0-9]{8}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{12}`
	awsARN  = `arn:(aws|aws-us-gov|aws-cn):kms:[a-z0-9-]+:\d{12}:`
)

var stores = []store{
	{
		scheme: "awskms://", name: "AWS KMS",
		valid: regexp.MustCompile(`^awskms://[^/]*/(` + awsUUID + `|` + awsARN + `key/` + awsUUID + `|(` + awsARN + `)?alias/.*)$`),
		form:  "awskms://[ENDPOINT]/ID, awskms:///ARN or awskms:///alias/NAME",
		advice: "set AWS_REGION, and AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY or AWS_PROFILE (or use the role of the machine); " +
			"the key's policy must allow kms:DescribeKey, kms:GetPublicKey and kms:Sign",
		algorithm: "use a key of the kind ECC_NIST_P256 or RSA_3072",
	},
	{
		scheme: "gcpkms://", name: "Google Cloud KMS",
		valid: regexp.MustCompile(`^gcpkms://projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+(/(cryptoKeyVersions|versions)/[^/]+)?$`),
		form:  "gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY[/cryptoKeyVersions/N]",
		advice: "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, or run: gcloud auth application-default login; " +
			"the account needs the roles cloudkms.viewer and cloudkms.signerVerifier",
		before:    credentialsFile,
		algorithm: "use a key with the algorithm EC_SIGN_P256_SHA256 or RSA_SIGN_PKCS1_3072_SHA256",
	},
	{
		scheme: "azurekms://", name: "Azure Key Vault",
		valid: regexp.MustCompile(`^azurekms://[^/]+/[^/]+(/[a-z0-9]*)?$`),
		form:  "azurekms://VAULT.vault.azure.net/KEY[/VERSION]",
		advice: "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or run: az login; " +
			"the account needs the permissions get and sign on keys",
		algorithm: "use a P-256 or RSA-2048 key: with larger RSA keys this client of Azure signs only longer hashes",
	},
	{
		scheme: vaultScheme, name: "Vault",
		valid: regexp.MustCompile(`^hashivault://\w([\w.-]*\w)?$`),
		form:  "hashivault://KEY, the name of a key in the transit engine",
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

func openKMS(ctx context.Context, st *store, ref string, o Options) (Signer, error) {
	name := printable(ref)
	if !st.valid.MatchString(ref) {
		return nil, &KeyError{Path: name, Reason: "it does not name a key of " + st.name, Advice: "write " + st.form}
	}
	if st.before != nil {
		if err := st.before(o); err != nil {
			return nil, &KeyError{Path: name, Reason: err.Error(), Advice: st.advice}
		}
	}
	env := map[string]string{pinVariable: ""}
	var token string
	if st.scheme == vaultScheme {
		vault := vaultAuth(o)
		token = vault.token
		env["VAULT_ADDR"], env["VAULT_TOKEN"], env["TRANSIT_SECRET_ENGINE_PATH"] = vault.address, vault.token, vault.path
		env["BAO_ADDR"], env["BAO_TOKEN"] = "", ""
	}
	client, path, err := serviceHelper.start(ctx, name, o, env)
	if err != nil {
		return nil, err
	}
	failed := func(doing string, limit time.Duration, err error) error {
		var f *helper.Failure
		if !errors.As(err, &f) {
			return err
		}
		if f.Code == helper.TimedOut {
			return &KeyError{
				Path: name, Reason: fmt.Sprintf("%s gave no answer within %s while %s", st.name, limit, doing),
				Advice: st.advice, Err: context.DeadlineExceeded,
			}
		}
		// The failure is not wrapped: it may quote a request.
		detail := oneLine(f.Detail, o, token)
		reason, advice, ofHelper := serviceHelper.explain(f, path, detail)
		if !ofHelper {
			reason, advice = doing+": "+detail, st.advice
		}
		return &KeyError{Path: name, Reason: reason, Advice: advice}
	}
	limit := cmp.Or(o.kmsLimit, kmsOpenLimit)
	answer, err := client.Do(ctx, helper.Request{Op: helper.OpOpen, Service: ref}, limit)
	var public crypto.PublicKey
	if err == nil {
		public, err = publicOf(answer)
	}
	if err != nil {
		client.Close()
		return nil, failed("asking "+st.name+" for the public key", limit, err)
	}
	e, err := st.usable(name, public, answer.Hash)
	if err != nil {
		client.Close()
		return nil, err
	}
	sign := func(ctx context.Context, digest [sha256.Size]byte) ([]byte, error) {
		answer, err := client.Do(ctx, helper.Request{Op: helper.OpSign, Digest: digest[:]}, kmsSignLimit)
		if err != nil {
			return nil, failed("signing with "+st.name, kmsSignLimit, err)
		}
		return answer.Signature, nil
	}
	return &helperSigner{digestSigner: digestSigner{external: e, sign: sign}, client: client}, nil
}

// usable refuses keys that Mender clients cannot verify.
func (st *store) usable(name string, public crypto.PublicKey, hash string) (external, error) {
	e, err := newExternal(name, public)
	if err != nil {
		var ke *KeyError
		if errors.As(err, &ke) {
			ke.Advice = st.algorithm
		}
		return e, err
	}
	if hash != crypto.SHA256.String() {
		return e, &KeyError{
			Path: name, Reason: fmt.Sprintf("%s signs with this %s key only %s; Mender clients verify only SHA-256", st.name, e.key.Algorithm, printable(hash)),
			Advice: st.algorithm,
		}
	}
	return e, nil
}

func vaultAddress(o Options) error {
	auth := vaultAuth(o)
	switch {
	case auth.address == "":
		return errors.New("neither VAULT_ADDR nor BAO_ADDR says where Vault is")
	case auth.token == "" && !vaultHelper(o):
		return errors.New("there is no token for Vault: neither VAULT_TOKEN nor BAO_TOKEN is set, and there is no ~/.vault-token")
	}
	return nil
}

// vaultAccess is where Vault is and what lets one in.
type vaultAccess struct{ address, token, path string }

// vaultAuth finds what Vault's own client would, so that messages can be kept free of it.
func vaultAuth(o Options) vaultAccess {
	first := func(names ...string) string {
		for _, n := range names {
			if v := o.getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	auth := vaultAccess{
		address: first("VAULT_ADDR", "BAO_ADDR"), token: first("VAULT_TOKEN", "BAO_TOKEN"), path: o.getenv("TRANSIT_SECRET_ENGINE_PATH"),
	}
	if home := o.getenv("HOME"); auth.token == "" && home != "" && !vaultHelper(o) {
		if f, err := os.Open(filepath.Join(home, ".vault-token")); err == nil {
			token, _ := io.ReadAll(io.LimitReader(f, 64<<10))
			f.Close()
			auth.token = strings.TrimSpace(string(token))
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
