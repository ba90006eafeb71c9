package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twinkeel/twinkeel/pipeline"
	"github.com/twinkeel/twinkeel/pipeline/build"
)

// cacheSizeVariable may say how large builds let the cache grow.
const cacheSizeVariable = "TWINKEEL_CACHE_MAX_SIZE"

func (a *app) cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "cache",
		Short:   "Look after the cache of what was built",
		GroupID: groupLook,
		Long: `Builds keep what they make in a cache, by the digest of everything it was made from, and take it from there when the same
is needed again: after a clean checkout, in another directory, on another branch. The cache is .twinkeel/cache in the
pipeline's directory, or where its cache_dir says, or TWINKEEL_CACHE_DIR; several pipelines and processes may share it. A build that adds to it lets
it have 20 GiB on the disk, or TWINKEEL_CACHE_MAX_SIZE (such as 5GiB; 0 for no bound); what was used longest ago goes.
It may be deleted at any time.`,
		Args: onlyCommands,
		RunE: helpRun,
	}
	c.AddCommand(a.cacheListCommand(), a.cacheVerifyCommand(), a.cachePruneCommand())
	return c
}

// cache is that of the pipeline's directory. A broken pipeline must not keep the disk full: when it does not tell where its
// cache is, it is where it is by default.
func (a *app) cache() *build.Cache {
	plan := &pipeline.Plan{Dir: a.global.dir}
	if p, _ := pipeline.Load(a.loadOptions()); p != nil {
		a.hide(p)
		plan.CacheDir = p.CacheDir()
	}
	return build.OpenCache(build.CacheDir(plan))
}

// cacheSize is how large builds let the cache grow, in build.Options' form.
func (a *app) cacheSize() (int64, error) {
	text := a.getenv(cacheSizeVariable)
	if text == "0" {
		return -1, nil
	}
	return parseSize(cacheSizeVariable, text)
}

func (a *app) cacheListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List what the cache holds, what was used last first",
		Args:  exactArgs(),
		RunE:  func(*cobra.Command, []string) error { return a.runCacheList() },
	}
}

// listedEntry is one line of `cache ls --json`.
type listedEntry struct {
	*build.Entry
	Size int64     `json:"size"`
	Used time.Time `json:"used"`
}

func (a *app) runCacheList() error {
	entries, damaged, err := a.cache().Entries()
	if err != nil {
		return err
	}
	for _, d := range damaged {
		a.warnf("%v", d)
	}
	list := []listedEntry{}
	for _, e := range entries {
		list = append(list, listedEntry{e, e.Size(), e.Used.UTC()})
	}
	if done, err := a.asJSON(list); done {
		return err
	}
	t := table{}
	for _, e := range entries {
		t.add(e.Key[:12], printable(e.Address), printable(e.Files[0].Name), size(e.Size()), e.Used.Format("2006-01-02 15:04"))
	}
	t.print(a.stdout)
	return nil
}

func (a *app) cacheVerifyCommand() *cobra.Command {
	var repair bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Read everything in the cache and name what is damaged",
		Long: `Read everything in the cache and name what is damaged; the exit code is 3 when something is. Builds notice damage by
themselves and build anew; --repair removes it now.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runCacheVerify(cmd.Context(), repair) },
	}
	c.Flags().BoolVar(&repair, "repair", false, "remove what is damaged")
	return c
}

// verifiedCache is what `cache verify --json` prints.
type verifiedCache struct {
	Whole    int               `json:"whole"`
	Damaged  []damagedInResult `json:"damaged"`
	Repaired bool              `json:"repaired"`
}

type damagedInResult struct {
	Key     string `json:"key"`
	Address string `json:"address,omitempty"`
	Reason  string `json:"reason"`
}

func (a *app) runCacheVerify(ctx context.Context, repair bool) error {
	whole, damaged, err := a.cache().Verify(ctx, repair)
	if err != nil {
		return err
	}
	result := verifiedCache{Whole: whole, Damaged: []damagedInResult{}, Repaired: repair}
	for _, d := range damaged {
		result.Damaged = append(result.Damaged, damagedInResult{d.Key, d.Address, d.Reason})
	}
	done, err := a.asJSON(result)
	if !done {
		for _, d := range damaged {
			a.printf("DAMAGED %s %s %s\n", d.Key[:12], printable(d.Address), printable(d.Reason))
		}
		a.printf("%s whole, %d damaged\n", entriesText(whole), len(damaged))
	}
	switch {
	case err != nil || len(damaged) == 0:
		return err
	case repair:
		a.notef("What was damaged is removed; the next build makes it again.\n")
		return &exitError{code: exitVerify}
	}
	a.notef("Remove it with: twinkeel cache verify --repair\n")
	return &exitError{code: exitVerify}
}

func entriesText(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return strconv.Itoa(n) + " entries"
}

type cachePruneOptions struct{ maxSize, olderThan string }

func (a *app) cachePruneCommand() *cobra.Command {
	var o cachePruneOptions
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what was used longest ago",
		Long: `Remove what was not used for a time, then what was used longest ago until the rest takes no more than a size on the disk.
Without flags the size is the one that builds keep to. What was built stays; only building it again may take longer.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runCachePrune(cmd.Context(), o) },
	}
	c.Flags().StringVar(&o.maxSize, "max-size", "", "leave at most this `size`, such as 10GiB; 0 removes everything")
	c.Flags().StringVar(&o.olderThan, "older-than", "", "remove what was not used for this `time`, such as 30d or 12h")
	return c
}

func (a *app) runCachePrune(ctx context.Context, o cachePruneOptions) error {
	bound, err := o.bound(a)
	if err != nil {
		return err
	}
	age, err := parseAge("--older-than", o.olderThan)
	if err != nil {
		return err
	}
	cache := a.cache()
	p, err := cache.Prune(ctx, bound, age)
	if err != nil {
		return fmt.Errorf("pruning %s: %w", relative(cache.Dir()), err)
	}
	if done, err := a.asJSON(p); done {
		return err
	}
	a.printf("removed %s, %s; left %s, %s\n", entriesText(p.Removed), size(p.Freed), entriesText(p.Left), size(p.Size))
	return nil
}

// bound is the size to leave in Prune's form, where 0 is no bound.
func (o *cachePruneOptions) bound(a *app) (int64, error) {
	switch {
	case o.maxSize == "0":
		return 1, nil // no file is that small
	case o.maxSize != "":
		return parseSize("--max-size", o.maxSize)
	case o.olderThan != "":
		return 0, nil
	}
	kept, err := a.cacheSize()
	switch {
	case err != nil:
		return 0, err
	case kept < 0:
		return 0, nil
	case kept == 0:
		return build.DefaultCacheSize, nil
	}
	return kept, nil
}

// parseAge reads a duration as Go writes it, or a number of days; an empty text is 0.
func parseAge(flag, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return d, nil
	}
	return 0, usagef("%s takes a time, such as 30d or 12h; not %q", flag, text)
}
