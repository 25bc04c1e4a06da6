# A workspace that is a process on the coordinator's own machine, with a home that outlives it.
terraform {
  required_providers {
    berth = { source = "berth/berth" }
  }
}

data "berth_workspace" "me" {}

data "berth_parameter" "editor" {
  name        = "editor"
  description = "What git and others open to edit a text"
  default     = "vi"
  mutable     = true

  option {
    name  = "vi"
    value = "vi"
  }
  option {
    name  = "nano"
    value = "nano"
  }
}

resource "berth_agent" "main" {
  os   = "linux"
  arch = data.berth_workspace.me.host_arch
  env = {
    EDITOR = data.berth_parameter.editor.value
  }
}

# Persistent: not gated on the start count, so that it stays when the workspace stops.
resource "berth_home" "home" {}

# Ephemeral: there while the workspace runs.
resource "berth_process" "dev" {
  count     = data.berth_workspace.me.start_count
  agent_id  = berth_agent.main.id
  home      = berth_home.home.id
  coder_dir = "${path.module}/coder"
}
