package issuance

import "time"

// Reissue is when the certificates that a CA before signed are replaced after the switch of the signer: spread evenly, each at a time
// that depends on nothing but itself, so that a restart goes on where it stood.
type Reissue struct {
	// From is the switch, and Over the time over which they are spread.
	From time.Time
	Over time.Duration
	// Started is when this manager began with the CA, or a pause ended: what was missed before is spread again, so that no wave follows.
	Started time.Time
	// Paused replaces none before its age demands it.
	Paused bool
}

// turn is when a certificate is replaced, by its share from 0 to 1.
func (r Reissue) turn(share float64) time.Time {
	wait := time.Duration(share * float64(r.Over))
	if at := r.From.Add(wait); !at.Before(r.Started) {
		return at
	}
	return r.Started.Add(wait)
}
