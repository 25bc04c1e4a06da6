package sqlite

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"berth/coordinator"
	"berth/coordinator/seal"
)

// writerDir, in the environment of a test process, makes it a writer that is to be killed.
const writerDir = "BERTH_TEST_WRITER_DIR"

// writer writes audit entries for ever, and says each number once it is acknowledged.
func writer(dir string) error {
	k, err := seal.LoadOrCreate(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	s, err := Open(ctx, dir, k, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if err := s.Activate(ctx, os.Getpid(), noon); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if err := s.Audit(ctx, coordinator.AuditEntry{Target: strconv.Itoa(n)}); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestKill kills a writer, again and again, and finds every write that was acknowledged.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := 0
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerDir+"="+dir)
		cmd.Stderr = os.Stderr
		out := must(cmd.StdoutPipe())(t)
		ok(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for range 20 + 13*round {
			if !lines.Scan() {
				t.Fatal("the writer ended by itself")
			}
			acknowledged++
		}
		ok(t, cmd.Process.Kill())
		for lines.Scan() { // what it said before it was killed
			acknowledged++
		}
		_ = cmd.Wait()
	}
	s := openAt(t, dir, must(seal.LoadOrCreate(filepath.Join(dir, "key")))(t))
	if n := rowCount(t, s, `SELECT count(*) FROM audit`); n < acknowledged {
		t.Errorf("%d of %d acknowledged writes are there", n, acknowledged)
	}
	var verdict string
	ok(t, s.read.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&verdict))
	if verdict != "ok" {
		t.Errorf("integrity check: %s", verdict)
	}
}
