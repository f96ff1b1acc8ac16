package issuance

import "time"

// Reissue is when the certificates that a CA before signed are replaced after the switch of the signer: spread evenly, each at a time
// that depends on nothing but itself, so that a restart goes on where it stood.
type Reissue struct {
	// SwitchedAt is the switch, and Over the time over which they are spread.
	SwitchedAt time.Time
	Spread     time.Duration
	// StartedAt is when this manager began with the CA, or a pause ended: what was missed before is spread again, so that no wave follows.
	StartedAt time.Time
	// Paused replaces none before its age demands it.
	Paused bool
}

// scheduledTime is when a certificate is replaced, by its share from 0 to 1.
func (r Reissue) scheduledTime(share float64) time.Time {
	wait := time.Duration(share * float64(r.Spread))
	if at := r.SwitchedAt.Add(wait); !at.Before(r.StartedAt) {
		return at
	}
	return r.StartedAt.Add(wait)
}
