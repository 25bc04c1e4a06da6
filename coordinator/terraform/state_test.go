package terraform

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"berth/coordinator"
)

const sampleState = `{"version":4,"serial":7,"lineage":"l","resources":[
 {"mode":"data","type":"berth_workspace","name":"me","instances":[{"attributes":{"id":"x"}}]},
 {"mode":"managed","type":"berth_agent","name":"main","instances":[{"attributes":{"id":"a1","name":"main","os":"linux","arch":"amd64",
   "env":{"K":"v"},"user":"dev","dir":"/src","motd":"hi","connection_timeout":"45s","token":"secret"}}]},
 {"mode":"managed","type":"berth_home","name":"home","instances":[{"attributes":{"id":"h"},"dependencies":["berth_agent.main"]}]},
 {"mode":"managed","type":"berth_app","name":"web","instances":[{"attributes":{"id":"w"},"dependencies":["berth_agent.main"]}]},
 {"mode":"managed","type":"docker_container","name":"side","instances":[{"attributes":{"id":"s"},"dependencies":["berth_agent.main","docker_container.dev","docker_image.i"]}]},
 {"mode":"managed","type":"docker_container","name":"dev","instances":[
   {"index_key":0,"attributes":{"id":"d"},"dependencies":["berth_agent.main","docker_image.i"]},
   {"index_key":0,"deposed":"abcd1234","attributes":{"id":"old"},"dependencies":["berth_agent.main"]}]},
 {"module":"module.m[\"x\"]","mode":"managed","type":"coder_agent","name":"My_Box","instances":[
   {"index_key":0,"attributes":{"id":"c0","connection_timeout":120}},{"index_key":1,"attributes":{"id":"c1"}}]},
 {"module":"module.m[\"x\"]","mode":"managed","type":"vm","name":"v","instances":[
   {"index_key":0,"attributes":{},"dependencies":["module.m.coder_agent.My_Box"]},
   {"index_key":1,"attributes":{},"dependencies":["module.m.coder_agent.My_Box"]}]}
]}`

func TestAgents(t *testing.T) {
	want := []coordinator.AgentRecord{
		{
			ID: "a1", Name: "main", Address: "berth_agent.main", Resource: "docker_container.dev[0]", OS: "linux", Arch: "amd64",
			Env: map[string]string{"K": "v"}, User: "dev", Dir: "/src", MOTD: "hi", ConnectionTimeout: 45 * time.Second,
		},
		{ID: "c0", Name: "my-box", Address: `module.m["x"].coder_agent.My_Box[0]`, Resource: `module.m["x"].vm.v[0]`, ConnectionTimeout: 2 * time.Minute},
		{ID: "c1", Name: "my-box", Address: `module.m["x"].coder_agent.My_Box[1]`, Resource: `module.m["x"].vm.v[1]`, ConnectionTimeout: 2 * time.Minute},
	}
	if d := cmp.Diff(want, Agents([]byte(sampleState))); d != "" {
		t.Errorf("Agents (-want +got):\n%s", d)
	}
}

func TestResources(t *testing.T) {
	want := []string{
		"berth_agent.main", "berth_app.web", "berth_home.home", "docker_container.dev[0]", "docker_container.dev[0] (deposed abcd1234)",
		"docker_container.side", `module.m["x"].coder_agent.My_Box[0]`, `module.m["x"].coder_agent.My_Box[1]`,
		`module.m["x"].vm.v[0]`, `module.m["x"].vm.v[1]`,
	}
	if d := cmp.Diff(want, Resources([]byte(sampleState))); d != "" {
		t.Errorf("Resources (-want +got):\n%s", d)
	}
}

func TestParseStateRefuses(t *testing.T) {
	for _, bad := range []string{"", "{", sampleState[:len(sampleState)/2], `{"version":3,"lineage":"l"}`, `{"version":4}`, "[]", "null"} {
		if _, err := ParseState([]byte(bad)); err == nil {
			t.Errorf("took %.20q", bad)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(sampleState))
	f.Fuzz(func(_ *testing.T, data []byte) { Agents(data); Resources(data) }) // must not panic
}
