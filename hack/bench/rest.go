package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// quietPeriod is how long there must be no writes, and little CPU use, before the manager is taken
	// to be at rest: longer than the operator delays what it reports.
	quietPeriod = 12 * time.Second
	// pollInterval is how often the writes and the CPU use are measured; busyThreshold is the CPU time
	// within one interval that counts as busy.
	pollInterval, busyThreshold = 200 * time.Millisecond, 40 * time.Millisecond
	// memoryReturnDelay is the time within which a manager at rest returns unused memory to the
	// operating system; samplingPeriod is how long its memory is sampled after that.
	memoryReturnDelay, samplingPeriod = 35 * time.Second, 10 * time.Second
)

func (b *bench) recordMemory(ctx context.Context, when string) error {
	now, err := b.atRest(ctx)
	most, err2 := b.memory("VmHWM")
	b.rows.growing("memory "+when, now, "MiB")
	b.rows.growing("memory "+when+", at most", most, "MiB")
	return errors.Join(err, err2)
}

// atRest returns the memory of a manager at rest in MiB, as counted by the kernel: the median over
// samplingPeriod, after it has returned unused memory.
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

// settle waits until the manager is at rest, and returns how long it was busy.
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

// sleep waits for duration, or returns an error when ctx ends first.
func sleep(ctx context.Context, duration time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(duration):
		return nil
	}
}
