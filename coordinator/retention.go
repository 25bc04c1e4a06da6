package coordinator

// TemplateFiles says which of the files that belong to templates something still refers to.
type TemplateFiles struct {
	Archives map[string]bool    // by SHA-256
	Versions map[VersionID]bool // whose imported files are, or will be, needed
}
