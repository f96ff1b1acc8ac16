package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// quietPeriod is for how long nothing is written, and nothing much computed, before the manager is taken to be at rest: longer than it gathers
	// what it reports.
	quietPeriod = 12 * time.Second
	// pollInterval is how often that is looked at, and busy how much of such a time on the cores is much.
	pollInterval, busyThreshold = 200 * time.Millisecond, 40 * time.Millisecond
	// memoryReturnDelay is within what time a manager at rest gives back the memory that it does not use, and steady for how long it is looked at then.
	memoryReturnDelay, samplingPeriod = 35 * time.Second, 10 * time.Second
)

func (b *bench) recordMemory(ctx context.Context, when string) error {
	now, err := b.atRest(ctx)
	most, err2 := b.memory("VmHWM")
	b.rows.growing("memory "+when, now, "MiB")
	b.rows.growing("memory "+when+", at most", most, "MiB")
	return errors.Join(err, err2)
}

// atRest is the memory of a manager at rest in MiB, as the kernel counts it: the median of some seconds after it has given back what it does not use.
func (b *bench) atRest(ctx context.Context) (float64, error) {
	if err := sleep(ctx, memoryReturnDelay); err != nil {
		return 0, err
	}
	var samples []float64
	for range samplingPeriod / pollInterval {
		now, err := b.memory("VmRSS")
		if err := errors.Join(err, sleep(ctx, pollInterval)); err != nil {
			return 0, err
		}
		samples = append(samples, now)
	}
	slices.Sort(samples)
	return samples[len(samples)/2], nil
}

// settle waits until nothing has been written or computed for a while, and tells how long it took until then.
func (b *bench) settle(ctx context.Context) (time.Duration, error) {
	start, last := time.Now(), time.Now()
	before, err := b.writes(ctx)
	spent, err2 := b.cpu()
	if err := errors.Join(err, err2); err != nil {
		return 0, err
	}
	err = wait.PollUntilContextTimeout(ctx, pollInterval, 30*time.Minute, true, func(ctx context.Context) (bool, error) {
		now, err := b.writes(ctx)
		spentNow, err2 := b.cpu()
		if len(since(before, now)) > 0 || spentNow-spent > busyThreshold {
			last = time.Now()
		}
		before, spent = now, spentNow
		return time.Since(last) > quietPeriod, errors.Join(err, err2)
	})
	return last.Sub(start), err
}

// sleep waits, unless the bench ends.
func sleep(ctx context.Context, duration time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(duration):
		return nil
	}
}
