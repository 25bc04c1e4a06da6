package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"

	"berth/coordinator"
)

// unsupported answers what the protocol offers and Berth has no use for.
type unsupported struct{}

func refuse(format string, args ...any) []*tfprotov5.Diagnostic {
	return diagnose(coordinator.Errorf(coordinator.CodeInvalid, format, args...))
}

// GetMetadata names nothing: terraform asks for the schema as well.
func (unsupported) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	return &tfprotov5.GetMetadataResponse{}, nil
}

// GetResourceIdentitySchemas names none.
func (unsupported) GetResourceIdentitySchemas(context.Context, *tfprotov5.GetResourceIdentitySchemasRequest) (*tfprotov5.GetResourceIdentitySchemasResponse, error) {
	return &tfprotov5.GetResourceIdentitySchemasResponse{}, nil
}

// UpgradeResourceIdentity refuses.
func (unsupported) UpgradeResourceIdentity(_ context.Context, q *tfprotov5.UpgradeResourceIdentityRequest) (*tfprotov5.UpgradeResourceIdentityResponse, error) {
	return &tfprotov5.UpgradeResourceIdentityResponse{Diagnostics: refuse("%s has no identity", q.TypeName)}, nil
}

// ImportResourceState refuses: an id in a template could be another workspace's.
func (unsupported) ImportResourceState(_ context.Context, q *tfprotov5.ImportResourceStateRequest) (*tfprotov5.ImportResourceStateResponse, error) {
	return &tfprotov5.ImportResourceStateResponse{Diagnostics: diagnose(
		coordinator.Errorf(coordinator.CodeInvalid, "%s cannot be imported", q.TypeName).
			WithHint("Berth makes its resources itself; remove the import block from the template"))}, nil
}

// MoveResourceState refuses for the same reason.
func (unsupported) MoveResourceState(_ context.Context, q *tfprotov5.MoveResourceStateRequest) (*tfprotov5.MoveResourceStateResponse, error) {
	return &tfprotov5.MoveResourceStateResponse{Diagnostics: refuse("%s cannot become a %s", q.SourceTypeName, q.TargetTypeName)}, nil
}

// GenerateResourceConfig refuses.
func (unsupported) GenerateResourceConfig(_ context.Context, q *tfprotov5.GenerateResourceConfigRequest) (*tfprotov5.GenerateResourceConfigResponse, error) {
	return &tfprotov5.GenerateResourceConfigResponse{Diagnostics: refuse("no configuration can be made for %s", q.TypeName)}, nil
}

// GetFunctions names none.
func (unsupported) GetFunctions(context.Context, *tfprotov5.GetFunctionsRequest) (*tfprotov5.GetFunctionsResponse, error) {
	return &tfprotov5.GetFunctionsResponse{}, nil
}

// CallFunction refuses.
func (unsupported) CallFunction(_ context.Context, q *tfprotov5.CallFunctionRequest) (*tfprotov5.CallFunctionResponse, error) {
	return &tfprotov5.CallFunctionResponse{Error: &tfprotov5.FunctionError{Text: "no function is called " + q.Name}}, nil
}

// ValidateEphemeralResourceConfig refuses.
func (unsupported) ValidateEphemeralResourceConfig(_ context.Context, q *tfprotov5.ValidateEphemeralResourceConfigRequest) (*tfprotov5.ValidateEphemeralResourceConfigResponse, error) {
	return &tfprotov5.ValidateEphemeralResourceConfigResponse{Diagnostics: refuse("no ephemeral resource is called %s", q.TypeName)}, nil
}

// OpenEphemeralResource refuses.
func (unsupported) OpenEphemeralResource(_ context.Context, q *tfprotov5.OpenEphemeralResourceRequest) (*tfprotov5.OpenEphemeralResourceResponse, error) {
	return &tfprotov5.OpenEphemeralResourceResponse{Diagnostics: refuse("no ephemeral resource is called %s", q.TypeName)}, nil
}

// RenewEphemeralResource refuses.
func (unsupported) RenewEphemeralResource(_ context.Context, q *tfprotov5.RenewEphemeralResourceRequest) (*tfprotov5.RenewEphemeralResourceResponse, error) {
	return &tfprotov5.RenewEphemeralResourceResponse{Diagnostics: refuse("no ephemeral resource is called %s", q.TypeName)}, nil
}

// CloseEphemeralResource refuses.
func (unsupported) CloseEphemeralResource(_ context.Context, q *tfprotov5.CloseEphemeralResourceRequest) (*tfprotov5.CloseEphemeralResourceResponse, error) {
	return &tfprotov5.CloseEphemeralResourceResponse{Diagnostics: refuse("no ephemeral resource is called %s", q.TypeName)}, nil
}
