package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/internal/durable"
	"github.com/twinkeel/twinkeel/signing"
	"github.com/twinkeel/twinkeel/signing/verify"
)

func (a *app) keysCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "keys",
		Short:   "Make and look at signing keys",
		GroupID: groupLook,
		Args:    onlyCommands,
		RunE:    helpRun,
	}
	var algorithm string
	generate := &cobra.Command{
		Use:   "generate FILE",
		Short: "Make a key pair: FILE (private, 0600) and FILE.pub",
		Long: `Make a key pair for signing artifacts. FILE gets the private key, readable by its owner alone; FILE.pub the public key,
which devices and "artifact verify" need. Files that exist are never overwritten.`,
		Args: exactArgs("FILE"),
		RunE: func(_ *cobra.Command, args []string) error { return a.runKeysGenerate(args[0], algorithm) },
	}
	generate.Flags().StringVar(&algorithm, "type", signing.DefaultAlgorithm, "ecdsa-p256, rsa-3072 or rsa-4096")
	c.AddCommand(generate, a.keysShowCommand(), a.keysFingerprintCommand())
	return c
}

// keyFiles is what `keys generate --json` prints.
type keyFiles struct {
	PrivateKey string `json:"private_key"`
	PublicKey  string `json:"public_key"`
	KeyID      string `json:"key_id"`
	Algorithm  string `json:"algorithm"`
}

// shownKey is what `keys show --json` prints.
type shownKey struct {
	KeyID     string `json:"key_id"`
	Algorithm string `json:"algorithm"`
	PublicKey string `json:"public_key"` // PEM
}

func (a *app) keysShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show KEY...",
		Short: "Show a key's identifier, algorithm and public key",
		Long: `Show the identifier, the algorithm and the public key (PEM) of a key, private or public, wherever it is. This is also how
the public key comes out of a KMS or a hardware module:
  twinkeel keys show awskms:///alias/ota --json | jq -r '.[].public_key' > ota.pub

` + keyRefHelp,
		Args: atLeastOne("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runKeysShow(cmd.Context(), args, false) },
	}
}

func (a *app) keysFingerprintCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fingerprint KEY...",
		Short: "Print a key's identifier alone: the SHA-256 of its public key",
		Long: `Print the identifier of each key, private or public: the SHA-256 of the public key's DER form, as in reports of
"artifact verify" and in out/twinkeel.json.`,
		Args: atLeastOne("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runKeysShow(cmd.Context(), args, true) },
	}
}

func (a *app) runKeysShow(ctx context.Context, refs []string, idOnly bool) error {
	var keys []verify.Key
	for _, ref := range refs {
		found, err := a.publicKeys(ctx, ref)
		if err != nil {
			return err
		}
		keys = append(keys, found...)
	}
	shown := make([]shownKey, len(keys))
	for i, k := range keys {
		shown[i] = shownKey{KeyID: k.ID, Algorithm: k.Algorithm, PublicKey: string(signing.MarshalPublic(k.Public))}
	}
	if done, err := a.asJSON(shown); done {
		return err
	}
	for _, k := range shown {
		if idOnly {
			a.printf("%s\n", k.KeyID)
			continue
		}
		t := table{}
		t.add("key id", k.KeyID)
		t.add("algorithm", k.Algorithm)
		t.print(a.stdout)
		a.printf("%s", k.PublicKey)
	}
	return nil
}

// publicKeys are the keys in a file of public keys, or the public part of a private key.
func (a *app) publicKeys(ctx context.Context, ref string) ([]verify.Key, error) {
	if data, err := readSmall(ref, 1<<20); err == nil {
		if keys, err := verify.ParseKeys(data); err == nil {
			return keys, nil
		}
	}
	public, err := signing.LoadPublic(ctx, ref, a.keyOptions(ctx, ref))
	if err != nil {
		return nil, err
	}
	key, err := verify.NewKey(public)
	return []verify.Key{key}, err
}

func (a *app) runKeysGenerate(path, algorithm string) error {
	if path == "" || path == "-" {
		return usagef("keys generate makes two files: name the one of the private key")
	}
	private, public, err := signing.Generate(algorithm)
	if err != nil {
		return err
	}
	keys, err := verify.ParseKeys(public)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	files := keyFiles{PrivateKey: path, PublicKey: path + ".pub", KeyID: keys[0].ID, Algorithm: keys[0].Algorithm}
	if err := signing.WriteKeyPair(files.PrivateKey, files.PublicKey, private, public); err != nil {
		return err
	}
	if done, err := a.asJSON(files); done {
		return err
	}
	t := table{}
	t.add("private key", files.PrivateKey, "keep it secret")
	t.add("public key", files.PublicKey, "devices verify with it")
	t.add("key id", files.KeyID)
	t.print(a.stdout)
	return nil
}
