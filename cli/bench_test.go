package cli

import "testing"

func BenchmarkRoot(b *testing.B) {
	for b.Loop() {
		testApp().root()
	}
}
