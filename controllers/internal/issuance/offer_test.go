package issuance_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/servingcert/operator/controllers/internal/issuance"
)

// However many Services select a pod, their names are put together in no time, each once.
func TestAllOfManyOffers(t *testing.T) {
	t.Parallel()
	const services = 20_000
	offers := issuance.Offers{{DNSNames: []string{"same.shop.svc"}}, {DNSNames: []string{"same.shop.svc"}}}
	for i := range services {
		host := fmt.Sprintf("web-%05d.shop.svc", i)
		offers = append(offers, issuance.Terms{DNSNames: []string{host, host + ".cluster.local", "*." + host, "*." + host + ".cluster.local"}})
	}
	begin := time.Now()
	all, some := offers.All()
	if want := 1 + 4*services; !some || len(all.DNSNames) != want {
		t.Errorf("there are %d names, want %d", len(all.DNSNames), want)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
}
