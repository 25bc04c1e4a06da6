package cli

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseForward(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"8080", "127.0.0.1:8080>localhost:8080"},
		{"8080:80", "127.0.0.1:8080>localhost:80"},
		{":80", "127.0.0.1:0>localhost:80"},
		{"8080,9090:90", "127.0.0.1:8080>localhost:8080 127.0.0.1:9090>localhost:90"},
		{"3000-3002", "127.0.0.1:3000>localhost:3000 127.0.0.1:3001>localhost:3001 127.0.0.1:3002>localhost:3002"},
		{"1-2:11-12", "127.0.0.1:1>localhost:11 127.0.0.1:2>localhost:12"},
		{":11-12", "127.0.0.1:0>localhost:11 127.0.0.1:0>localhost:12"},
		{"5432:db:5432", "127.0.0.1:5432>db:5432"},
		{"127.0.0.2:8080:80", "127.0.0.2:8080>localhost:80"},
		{"127.0.0.1:9000:db:9000", "127.0.0.1:9000>db:9000"},
		{"[::1]:9000:[fd00::1]:9000", "[::1]:9000>[fd00::1]:9000"},
		{"*:9000:db:9000", "*:9000>db:9000"},
		{"/a/b:/c/d", "/a/b>/c/d"},
		{"/a,b:/c/d", "/a,b>/c/d"},
		{"/a/b:5432", "/a/b>localhost:5432"},
		{"/a/b:db:5432", "/a/b>db:5432"},
		{"8080:/c/d", "127.0.0.1:8080>/c/d"},
		{":/c/d", "127.0.0.1:0>/c/d"},
		{"127.0.0.2:8080:/c/d", "127.0.0.2:8080>/c/d"},

		{"", "no port"},
		{"0", "no port"},
		{"65536", "no port"},
		{"80:0", "no port"},
		{"http", "no port"},
		{"5-3", "backwards"},
		{"1-1000", "more than 256"},
		{"1-2:11-13", "differ in length"},
		{"1-2:/c", "range"},
		{"/a:1-2", "range"},
		{"/a/b", "where the socket leads"},
		{"/a:b:c:d", "where the socket leads"},
		{"1:2:3:4:5", "too many parts"},
		{"127.0.0.1:9000::9000", "names no host"},
		{"a b:1:c:2", "names no host"},
		{"-1", "no port"},
	} {
		t.Run(tt.in, func(t *testing.T) {
			all, err := parseForwards([]string{tt.in})
			var got []string
			for _, f := range all {
				got = append(got, fmt.Sprintf("%s>%s", f.local, f.remote))
			}
			if err != nil {
				got = []string{err.Error()}
				if strings.Contains(err.Error(), tt.want) && !strings.Contains(tt.want, ">") {
					return
				}
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
	if _, err := parseForwards([]string{"1-200", "201-400"}); err == nil {
		t.Error("400 forwards are accepted")
	}
}
