package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"berth/coordinator"
)

// An engine speaks Terraform's plugin protocol for a table.
type engine struct {
	unsupported
	session   *Session
	resources map[string]*kind
	data      map[string]*kind
}

func newEngine(s *Session, table []*kind) *engine {
	e := &engine{session: s, resources: map[string]*kind{}, data: map[string]*kind{}}
	for _, k := range table {
		if k.data {
			e.data[k.name] = k
		} else {
			e.resources[k.name] = k
		}
	}
	return e
}

func (e *engine) resource(name string) (*kind, error) {
	if k, ok := e.resources[name]; ok {
		return k, nil
	}
	return nil, fmt.Errorf("no resource is called %q", name)
}

func (e *engine) source(name string) (*kind, error) {
	if k, ok := e.data[name]; ok {
		return k, nil
	}
	return nil, fmt.Errorf("no data source is called %q", name)
}

// diagnose turns an error into what terraform shows.
func diagnose(err error) []*tfprotov5.Diagnostic {
	if err == nil {
		return nil
	}
	d := &tfprotov5.Diagnostic{Severity: tfprotov5.DiagnosticSeverityError, Summary: err.Error()}
	var e *coordinator.Error
	if errors.As(err, &e) {
		d.Summary, d.Detail = e.Msg, e.Hint
	}
	return []*tfprotov5.Diagnostic{d}
}

// GetProviderSchema describes the table.
func (e *engine) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	r := &tfprotov5.GetProviderSchemaResponse{
		ServerCapabilities: &tfprotov5.ServerCapabilities{GetProviderSchemaOptional: true},
		Provider:           &tfprotov5.Schema{Block: &tfprotov5.SchemaBlock{}},
		ResourceSchemas:    map[string]*tfprotov5.Schema{},
		DataSourceSchemas:  map[string]*tfprotov5.Schema{},
	}
	for name, k := range e.resources {
		r.ResourceSchemas[name] = k.schema()
	}
	for name, k := range e.data {
		r.DataSourceSchemas[name] = k.schema()
	}
	return r, nil
}

// PrepareProviderConfig accepts the configuration, which is empty.
func (e *engine) PrepareProviderConfig(_ context.Context, q *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: q.Config}, nil
}

// ConfigureProvider has nothing to configure: everything comes from the job.
func (e *engine) ConfigureProvider(context.Context, *tfprotov5.ConfigureProviderRequest) (*tfprotov5.ConfigureProviderResponse, error) {
	return &tfprotov5.ConfigureProviderResponse{}, nil
}

// StopProvider has nothing to interrupt: every operation is short.
func (e *engine) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}

// validate runs a kind's check on a configuration.
func validate(k *kind, config *tfprotov5.DynamicValue) ([]*tfprotov5.Diagnostic, error) {
	v, err := decode(config, k.typ())
	if err != nil || k.check == nil || !v.there() {
		return nil, err
	}
	return diagnose(k.check(v)), nil
}

// ValidateResourceTypeConfig checks a resource's configuration by itself.
func (e *engine) ValidateResourceTypeConfig(_ context.Context, q *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	k, err := e.resource(q.TypeName)
	if err != nil {
		return nil, err
	}
	d, err := validate(k, q.Config)
	return &tfprotov5.ValidateResourceTypeConfigResponse{Diagnostics: d}, err
}

// ValidateDataSourceConfig checks a data source's configuration by itself.
func (e *engine) ValidateDataSourceConfig(_ context.Context, q *tfprotov5.ValidateDataSourceConfigRequest) (*tfprotov5.ValidateDataSourceConfigResponse, error) {
	k, err := e.source(q.TypeName)
	if err != nil {
		return nil, err
	}
	d, err := validate(k, q.Config)
	return &tfprotov5.ValidateDataSourceConfigResponse{Diagnostics: d}, err
}

// UpgradeResourceState reads a state of this or an older version: attributes that are no longer known are dropped, and
// those that it lacks are null.
func (e *engine) UpgradeResourceState(_ context.Context, q *tfprotov5.UpgradeResourceStateRequest) (*tfprotov5.UpgradeResourceStateResponse, error) {
	k, err := e.resource(q.TypeName)
	if err != nil {
		return nil, err
	}
	t := k.typ()
	lenient := tfprotov5.UnmarshalOpts{ValueFromJSONOpts: tftypes.ValueFromJSONOpts{IgnoreUndefinedAttributes: true}}
	raw, err := q.RawState.UnmarshalWithOpts(t, lenient)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	v, err := fromValue(raw, t)
	if err != nil {
		return nil, err
	}
	d, err := v.encode()
	return &tfprotov5.UpgradeResourceStateResponse{UpgradedState: d}, err
}

// ReadResource looks whether the resource is still there.
func (e *engine) ReadResource(ctx context.Context, q *tfprotov5.ReadResourceRequest) (*tfprotov5.ReadResourceResponse, error) {
	k, err := e.resource(q.TypeName)
	if err != nil {
		return nil, err
	}
	v, err := decode(q.CurrentState, k.typ())
	if err != nil {
		return nil, err
	}
	r := &tfprotov5.ReadResourceResponse{NewState: q.CurrentState, Private: q.Private}
	if k.read == nil || !v.there() {
		return r, nil
	}
	ok, err := k.read(ctx, e.session, v)
	if err != nil {
		r.Diagnostics = diagnose(err)
	} else if !ok {
		r.NewState, err = null(k.typ())
		return r, err
	}
	return r, nil
}

// PlanResourceChange works out what a resource will be.
func (e *engine) PlanResourceChange(_ context.Context, q *tfprotov5.PlanResourceChangeRequest) (*tfprotov5.PlanResourceChangeResponse, error) {
	k, err := e.resource(q.TypeName)
	if err != nil {
		return nil, err
	}
	// Defaults are set on attributes that are not computed, which the newer type system forbids.
	//lint:ignore SA1019 it is what that flag is for
	r := &tfprotov5.PlanResourceChangeResponse{UnsafeToUseLegacyTypeSystem: true, PlannedPrivate: q.PriorPrivate}
	t := k.typ()
	next, err := decode(q.ProposedNewState, t)
	if err != nil {
		return nil, err
	}
	if !next.there() { // a removal
		r.PlannedState = q.ProposedNewState
		return r, nil
	}
	prior, err := decode(q.PriorState, t)
	if err != nil {
		return nil, err
	}
	config, err := decode(q.Config, t)
	if err != nil {
		return nil, err
	}
	for _, a := range k.attrs {
		switch {
		case a.role == optional && a.def != nil && config.m[a.name].IsNull():
			next.set(a.name, a.def)
		case a.role == computed && !prior.there():
			next.set(a.name, unknown)
		}
	}
	if k.plan != nil {
		if err := k.plan(e.session, prior, next); err != nil {
			r.Diagnostics = diagnose(err)
			r.PlannedState, err = next.encode()
			return r, err
		}
	}
	for _, a := range k.attrs {
		if a.replace && prior.there() && !next.m[a.name].Equal(prior.m[a.name]) {
			r.RequiresReplace = append(r.RequiresReplace, tftypes.NewAttributePath().WithAttributeName(a.name))
		}
	}
	r.PlannedState, err = next.encode()
	return r, err
}

// ApplyResourceChange makes, changes or removes a resource.
func (e *engine) ApplyResourceChange(ctx context.Context, q *tfprotov5.ApplyResourceChangeRequest) (*tfprotov5.ApplyResourceChangeResponse, error) {
	k, err := e.resource(q.TypeName)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 as in the plan
	r := &tfprotov5.ApplyResourceChangeResponse{NewState: q.PriorState, UnsafeToUseLegacyTypeSystem: true, Private: q.PlannedPrivate}
	if e.session.job.Import {
		r.Diagnostics = diagnose(coordinator.Errorf(coordinator.CodeDenied, "an import changes nothing"))
		return r, nil
	}
	t := k.typ()
	prior, err := decode(q.PriorState, t)
	if err != nil {
		return nil, err
	}
	next, err := decode(q.PlannedState, t)
	if err != nil {
		return nil, err
	}
	switch {
	case !next.there() && k.destroy != nil:
		err = k.destroy(ctx, e.session, prior)
	case next.there() && !prior.there() && k.create != nil:
		err = k.create(ctx, e.session, next)
	}
	if err != nil {
		r.Diagnostics = diagnose(err)
		return r, nil
	}
	if !next.there() {
		r.NewState = q.PlannedState
		return r, nil
	}
	for name, a := range next.m {
		if !a.IsFullyKnown() {
			next.set(name, nil)
		}
	}
	r.NewState, err = next.encode()
	return r, err
}

// ReadDataSource answers a data source from the job.
func (e *engine) ReadDataSource(_ context.Context, q *tfprotov5.ReadDataSourceRequest) (*tfprotov5.ReadDataSourceResponse, error) {
	k, err := e.source(q.TypeName)
	if err != nil {
		return nil, err
	}
	v, err := decode(q.Config, k.typ())
	if err != nil {
		return nil, err
	}
	for _, a := range k.attrs {
		if a.role == optional && a.def != nil && v.m[a.name].IsNull() {
			v.set(a.name, a.def)
		}
	}
	if err := k.fetch(e.session, v); err != nil {
		return &tfprotov5.ReadDataSourceResponse{Diagnostics: diagnose(err)}, nil
	}
	d, err := v.encode()
	return &tfprotov5.ReadDataSourceResponse{State: d}, err
}
