package provider

import (
	"context"
	"errors"

	"berth/coordinator"
)

var homeKind = &kind{
	name: "berth_home",
	doc:  "A persistent directory on the coordinator's own host, for a berth_process.",
	attrs: []attr{
		{name: "id", typ: text, doc: "Id of the home."},
	},
	create: func(_ context.Context, s *Session, v values) error {
		id := coordinator.NewID()
		if err := s.host.EnsureHome(id); err != nil {
			return errors.Join(err, s.host.RemoveHome(id))
		}
		v.set("id", id)
		return nil
	},
	read: func(_ context.Context, s *Session, v values) (bool, error) {
		return s.host.HomeExists(v.text("id"))
	},
	destroy: func(_ context.Context, s *Session, v values) error {
		return s.host.RemoveHome(v.text("id"))
	},
}
