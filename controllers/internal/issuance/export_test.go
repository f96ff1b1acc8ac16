package issuance

import "time"

// Turn is for tests: when a certificate of that share is replaced.
func (r Reissue) Turn(share float64) time.Time { return r.turn(share) }
