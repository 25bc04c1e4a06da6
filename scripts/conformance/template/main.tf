# A workspace that is the caller's own process on the coordinator's machine: no isolation, and their own home.
terraform {
  required_providers {
    berth = { source = "berth/berth" }
  }
}

data "berth_workspace" "me" {}

resource "berth_agent" "main" {
  os   = "linux"
  arch = data.berth_workspace.me.host_arch
}

resource "berth_process" "dev" {
  count     = data.berth_workspace.me.start_count
  agent_id  = berth_agent.main.id
  isolation = "none"
}
