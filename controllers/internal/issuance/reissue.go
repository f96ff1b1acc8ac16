package issuance

import "time"

// Reissue is when certificates of earlier CAs are replaced after the signer has been switched. The
// replacements are spread evenly. The time of each depends on nothing but its certificate, so that
// a restarted operator continues where it stopped.
type Reissue struct {
	// SwitchedAt is when the signer was switched. Spread is the time over which the replacements
	// are spread.
	SwitchedAt time.Time
	Spread     time.Duration
	// StartedAt is when this process first used the CA, or when a pause ended. Replacements that
	// were due before are spread again from then on, so that they do not come all at once.
	StartedAt time.Time
	// Paused suspends replacements until the age of a certificate requires its renewal.
	Paused bool
}

// scheduledTime returns when a certificate is replaced; share is its position in the spread, from 0
// to 1.
func (r Reissue) scheduledTime(share float64) time.Time {
	wait := time.Duration(share * float64(r.Spread))
	if at := r.SwitchedAt.Add(wait); !at.Before(r.StartedAt) {
		return at
	}
	return r.StartedAt.Add(wait)
}
