package agent

// Version is the version of this build of Berth, set by the linker: a tag, or a commit.
var Version = "dev"
