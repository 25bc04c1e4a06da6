# shellcheck shell=bash disable=SC2154,SC2164,SC2015,SC2016,SC2029,SC2128,SC2178
# Further checks of conformance.sh, which reads this file: other clients, and what IDEs do, command by command.
# The IDEs' own servers are stood in for by helpers/peer.py; what differs from the product is said at each flow.

# scan writes the host keys that other clients shall pin: known_hosts with the port, and without.
scan() {
	ssh-keyscan -p "$C_PORT" "$C_HOST" 2>/dev/null >"$D/known" && [ -s "$D/known" ] || fail "no host keys"
	sed "s/^\[\([^]]*\)\]:[0-9]*/\1/" "$D/known" >"$D/known.plain"
	# Go's programs insist on a certificate where the server has one: they need its authority.
	cat "$(ssh -G -F "$SSH_CONFIG" "$HOST" | sed -n 's/^userknownhostsfile \([^ ]*\).*/\1/p')" >>"$D/known" 2>/dev/null
}
# ended PID: the process is no more.
ended() { ! kill -0 "$1" 2>/dev/null; }

# --- other clients -----------------------------------------------------------------------------------------------
check_asyncssh_files() { pyc a_files "$D"; }
check_dropbear() { # -y takes an unknown host key, and refuses one that has changed
	need dbclient dropbearconvert; dropbearconvert openssh dropbear "$C_PEM" "$D/key" 2>/dev/null || fail "key"
	local a=(dbclient -y -i "$D/key" -p "$C_PORT") p
	eq "$(printf in | "${a[@]}" "$C_USER@$C_HOST" 'cat; echo err >&2; exit 7' 2>"$D/err"; echo $?)" in7 exec
	grep -q '^err' "$D/err" || fail "no stderr: $(tail -1 "$D/err")"
	eq "$(script -qec "dbclient -y -t -i $D/key -p $C_PORT $C_USER@$C_HOST 'tty >/dev/null && echo tty'" /dev/null </dev/null 2>/dev/null | grep -ao tty | head -1)" tty terminal
	serve digest-server tcp:127.0.0.1:0; p=$(free_port); "${a[@]}" -N -L "$p:127.0.0.1:$REPLY" "$C_USER@$C_HOST" 2>/dev/null &
	retry 10 tcp_open "$p" || fail "no listener"; peer digest-client "tcp:127.0.0.1:$p"
}
check_libssh2() { # curl's sftp and scp; before 1.11 the library knows no encrypt-then-MAC
	need curl; curl -V | grep -q '\<sftp\>' || skip "curl without sftp"; scan
	local v sum a; v=$(curl -V | sed -n 's/.*libssh2\/\([0-9]*\.[0-9]*\).*/\1/p')
	sum=$(awk '$2 == "ssh-ed25519" {print $3}' "$D/known" | base64 -d | openssl dgst -sha256 -binary | base64)
	a=(curl -sS -u "$C_USER:" --key "$C_PEM" --pubkey "$C_PEM.pub" --hostpubsha256 "${sum%=}")
	head -c 3M /dev/urandom >"$D/f"
	if ! "${a[@]}" -T "$D/f" "sftp://$C_HOST:$C_PORT$D/g" 2>"$D/err"; then
		[[ $v =~ ^1\.([0-9]|10)$ ]] && grep -q 'exchange encryption keys' "$D/err" && exit 0 # too old, and told so
		fail "put with libssh2 $v: $(tail -1 "$D/err")"
	fi
	"${a[@]}" -o "$D/h" "sftp://$C_HOST:$C_PORT$D/g" && same "$D/h" "$D/f" "round trip"
	"${a[@]}" -o "$D/i" "scp://$C_HOST:$C_PORT$D/g" && same "$D/i" "$D/f" scp
}
check_lftp() {
	need lftp; tree "$D/t"; rm "$D/t/link"
	HOME=$D lftp -c "set sftp:connect-program '$W/bin/ssh -a -x'; set cmd:fail-exit yes; set net:max-retries 1
		open sftp://$HOST; mirror -R $D/t $D/up; mirror $D/up $D/down; ls $D/up >$D/ls" || fail "lftp exit $?"
	diff -r "$D/t" "$D/down" >/dev/null || fail "trees differ"
}
check_rclone() { # golang.org/x/crypto/ssh as a client; compares hashes by commands
	need rclone; scan; tree "$D/t"; rm "$D/t/link"
	local o=(--config "$D/rc" --sftp-host "$C_HOST" --sftp-port "$C_PORT" --sftp-user "$C_USER" --sftp-key-file "$C_PEM" --sftp-known-hosts-file "$D/known" --retries 1)
	: >"$D/rc"
	rclone "${o[@]}" copy "$D/t" ":sftp:$D/up" && rclone "${o[@]}" check "$D/t" ":sftp:$D/up" || fail "rclone exit $?"
	diff -r "$D/t" "$D/up" >/dev/null || fail "trees differ"
}
check_ansible() { # timeout=180
	need ansible; export HOME=$D ANSIBLE_HOME=$D/a ANSIBLE_LOCAL_TEMP=$D/a/tmp ANSIBLE_REMOTE_TEMP=$D/r ANSIBLE_NOCOLOR=1 LC_ALL=C.UTF-8
	printf '%s ansible_python_interpreter=/usr/bin/python3\n' "$HOST" >"$D/hosts"; echo copied >"$D/f"
	local a=(ansible -i "$D/hosts" --ssh-common-args "-F $SSH_CONFIG -o ControlPath=$D/cp" "$HOST") p
	for p in 0 1; do
		ANSIBLE_PIPELINING=$p "${a[@]}" -m ping >"$D/out" 2>&1 && grep -q pong "$D/out" || fail "ping, pipelining $p: $(tail -1 "$D/out")"
	done
	"${a[@]}" -m copy -a "src=$D/f dest=$D/g mode=0640" >"$D/out" 2>&1 || fail "copy: $(tail -1 "$D/out")"
	eq "$(cat "$D/g") $(stat -c %a "$D/g")" "copied 640" copy
	"${a[@]}" -m shell -a 'echo $((6*7)); exit 3' >"$D/out" 2>&1; grep -q 'rc=3' "$D/out" && grep -q '^42' "$D/out" || fail "shell: $(tail -1 "$D/out")"
	ssh -o ControlPath="$D/cp" -O exit "$HOST" 2>/dev/null; :
}
check_tramp() { # timeout=180   Emacs: a shell of its own by ssh -e none, its prompt found, files inline and by scp
	need emacs; head -c 300k /dev/urandom >"$D/f"; export HOME=$D
	cat >"$D/t.el" <<-X
		(require 'tramp)
		(setq tramp-persistency-file-name nil tramp-verbose 3 tramp-connection-timeout 30 tramp-use-ssh-controlmaster-options nil)
		(defun must (ok what) (unless ok (error "tramp: %s" what)))
		(dolist (m '("ssh" "scp"))
		  (let ((d (format "/%s:%s:$D/%s/" m "$HOST" m)))
		    (make-directory d)
		    (write-region "hello\n" nil (concat d "a"))
		    (must (equal (with-temp-buffer (insert-file-contents (concat d "a")) (buffer-string)) "hello\n") "file")
		    (copy-file "$D/f" (concat d "f"))
		    (must (equal (directory-files d nil "^[a-z]") '("a" "f")) "directory")
		    (let ((default-directory d))
		      (must (= 3 (process-file "sh" nil nil nil "-c" "exit 3")) "exit status")
		      (must (equal (shell-command-to-string "pwd") (format "$D/%s\n" m)) "cwd"))))
	X
	emacs -Q --batch -l "$D/t.el" >"$D/out" 2>&1 </dev/null || fail "$(grep -m1 -iE '^[^(]*error[: ]' "$D/out" | cut -c1-200)"
	same "$D/ssh/f" "$D/f" "copy inline"; same "$D/scp/f" "$D/f" "copy by scp"
}

# --- IDEs --------------------------------------------------------------------------------------------------------
# VS Code on Windows, remote.SSH.useLocalServer off: the script comes through a pipe that ends, the first connection has no
# forwards, a second one carries the tunnel. Log: microsoft/vscode-remote-release#11842, "Generated SSH command".
check_vscode_windows_flow() { # timeout=120
	local p i=0
	cat >"$D/install.sh" <<-X
		echo "a1b2: running"; cd $D
		/usr/bin/python3 $here/helpers/peer.py http-server tcp:127.0.0.1:0 --ready $D/port &> log < /dev/null & echo \$! > pid
		while [ ! -s port ]; do sleep 0.1; done
		echo "a1b2: start"; echo "listeningOn==\$(cat port)=="; echo "a1b2: end"
	X
	timeout 30 ssh -T -o ClearAllForwardings=true "$HOST" bash <"$D/install.sh" >"$D/out" || fail "the script ended with $?"
	p=$(sed -n 's/^listeningOn==\(.*\)==/\1/p' "$D/out"); [ "$p" ] || fail "no port: $(tail -1 "$D/out")"
	i=$(free_port); ssh -T -D "$i" -o ConnectTimeout=15 "$HOST" bash <<<"echo ready; sleep 60" >"$D/out2" &
	retry 10 grep -q ready "$D/out2" || fail "no second connection"
	eq "$(curl -s --socks5-hostname "127.0.0.1:$i" "http://127.0.0.1:$p/")" hello "server through -D"
	kill "$(cat "$D/pid")"
}
# VS Code's exec server, remote.SSH.useExecServer: `code command-shell` is started by the script, tells listeningOn, wants a
# token first, and frames follow through a -L tunnel; or listeningOn is empty and the frames go over the very stdin and
# stdout of the script. Logs: microsoft/vscode-remote-release#8942, #8946 (a port), #8893 (the tunnel).
# Here the frames carry a length and bytes instead of msgpack.
check_vscode_exec_server_flow() { # timeout=120
	cat >"$D/wrapper" <<-X
		#!/bin/sh
		{ printf 'echo "b2c3: running"; echo "listeningOn===="; echo "b2c3: end"; exec $here/helpers/peer.py frame-echo\n'; cat; } | ssh -T -o ConnectTimeout=15 "$HOST" bash | { while IFS= read -r l; do [ "\$l" = "b2c3: end" ] && break; done; exec cat; }
	X
	chmod +x "$D/wrapper"
	peer frame-client "$D/wrapper" || exit 1
	serve digest-server "unix:$D/exec.sock"; mkfifo "$D/in"; exec 9<>"$D/in"
	ssh -T -L "$D/local.sock:$D/exec.sock" -o ConnectTimeout=15 "$HOST" bash <"$D/in" >"$D/out" & local c=$!
	echo 'echo ready; cat >/dev/null' >&9; retry 10 test -S "$D/local.sock" || fail "no local socket"
	peer digest-client "unix:$D/local.sock" || exit 1
	kill $c
}
# open-remote-ssh (VSCodium, Cursor's and Windsurf's forks): src/serverSetup.ts and src/ssh/sshConnection.ts of
# jeanp413/open-remote-ssh, through the library that it uses. No -D: each SOCKS request is a forwardOut.
check_open_remote_ssh_flow() { # timeout=120
	need node; NODE_PATH=$here/node_modules:${NODE_PATH:-}; export NODE_PATH
	node -e 'require("ssh2")' 2>/dev/null || skip "needs npm package ssh2"
	node "$here/helpers/openremote.js" "$D" "$here/helpers/peer.py" 2>&1 | grep -v -e '^ ' -e '^$' | head -3; local r=${PIPESTATUS[0]}
	[ ! -s "$D/pid" ] || kill "$(cat "$D/pid")" || fail "the server ended with its connection"; return "$r"
}
# JetBrains Gateway and Toolbox: exec with exact exit codes, a terminal of 0x0, the worker uploaded by sftp, ports both ways,
# all on one connection (reports: mobydeck/ssh2incus#5 on the exit code, github/codespaces-jetbrains-feedback#126 on the
# deployment through net.schmizz.sshj). They use sshj; the Java libraries that Debian has (JSch 0.1, trilead) know no key
# exchange that is still safe, so paramiko stands in.
check_jetbrains_flow() { serve http-server tcp:127.0.0.1:0; pyc p_jetbrains "$D" "$REPLY"; }
# mutagen: pkg/agent/dial.go, pkg/agent/install.go and pkg/agent/transport/ssh/transport.go of mutagen-io/mutagen. It runs the
# agent, takes 126 and 127 for "not installed", copies it by scp -C to a name relative to home, installs it, and runs it again.
# The agent speaks frames of length and bytes here.
check_mutagen_flow() {
	local o=(-oConnectTimeout=5 -oServerAliveInterval=10 -oServerAliveCountMax=1) n=.conformance-mutagen-$$ r
	trap 'rm -rf ~/'"$n"'*; kill $(jobs -p) 2>/dev/null' EXIT
	ssh "${o[@]}" "$HOST" "$n/agents/0.18.0/mutagen-agent synchronizer --log-level=info" </dev/null >/dev/null 2>&1; r=$?
	[ $r = 127 ] || [ $r = 126 ] || fail "exit of a missing agent is $r, want 126 or 127"
	cp "$here/helpers/peer.py" "$D/mutagen-agent"
	(cd "$D" && scp -q -C "${o[@]}" mutagen-agent "$HOST:$n-copy") || fail "scp"
	ssh "${o[@]}" "$HOST" "chmod +x $n-copy" </dev/null && ssh "${o[@]}" "$HOST" "mkdir -p $n/agents && mv $n-copy $n/agents/mutagen-agent" </dev/null || fail install
	peer frame-client "$W/bin/ssh" "${o[@]}" "$HOST" "$n/agents/mutagen-agent frame-echo"
}

# --- the screen --------------------------------------------------------------------------------------------------
# screen_through NAME COMMAND: vim, less and htop in a tmux behind the command, resized while they run; what the outer tmux
# shows, cell by cell with colours, goes to files $D/NAME.1 and on.
screen_through() {
	local n=$1 t="tmux -L $1-$$ -f $D/outer.conf" i=0; shift
	shot() { i=$((i + 1)); local a=x b same=0; for _ in $(seq 150); do b=$($t capture-pane -pe); if [ "$a" = "$b" ] && [[ $b == *"$1"* ]]; then same=$((same + 1)); else same=0; fi; [ $same -ge 10 ] && break; a=$b; sleep 0.1; done; [[ $b == *"$1"* ]] || fail "$n: screen $i shows no '$1': $(grep . <<<"$b" | tail -2 | cut -c1-100 | tr '\n' '~')"; printf '%s\n' "$b" | sed "s/$n/NAME/g" >"$D/$n.$i"; }
	$t new-session -d -x 90 -y 28 "$*" || fail "tmux"
	shot 'READY$'
	$t send-keys -l "cd $D; TMUX= tmux -L in-$n-$$ -f $D/inner.conf new-session 'exec bash --noprofile --rcfile $D/rc2 -i'"; $t send-keys Enter
	shot 'in:'
	$t send-keys -l "${VIM:-vi} -n -i NONE -u NONE -N '+set ruler nu shortmess+=F' text"; $t send-keys Enter; shot '1,1'
	$t send-keys -l 20Gzz; shot '20,'; $t resize-window -x 120 -y 40; shot '20,'; $t send-keys -l 'ohéllo wörld'; $t send-keys Escape; shot 'wörld'
	$t send-keys C-b '"'; shot 'in:'; $t resize-window -x 100 -y 31; shot 'in:'
	$t send-keys -l "less text"; $t send-keys Enter; shot 'line 1'; $t send-keys -l '/line 77'; $t send-keys Enter; shot 'line 77'
	$t resize-window -x 70 -y 24; shot 'line 77'; $t send-keys -l q; shot 'in:'
	# htop's figures change: the process list is that of one idle process, and the meters are off.
	$t send-keys -l "HTOPRC=$D/htoprc htop -p $IDLE -d 100"; $t send-keys Enter; shot 'Setup'; $t resize-window -x 95 -y 33; shot 'Setup'
	$t send-keys -l q; shot 'in:'
	$t send-keys -l "tmux -L in-$n-$$ kill-server"; $t send-keys Enter; $t kill-server 2>/dev/null
	screens=$i
}
check_screen() { # timeout=240   the same as through sshd, which BASELINE, an ssh_config, reaches as dev
	need tmux less htop; [ "${BASELINE:-}" ] || skip "needs an sshd to compare with"; command -v vim.tiny >/dev/null && VIM=vim.tiny || VIM=vim; need "$VIM"; export LC_ALL=C.UTF-8 LESS='' IDLE VIM
	local i; seq 200 | sed 's/.*/line & of the text, and a few more words to wrap where the window is narrow: lorem ipsum dolor/' >"$D/text"
	printf 'set -g status off\nset -g remain-on-exit on\nset -g default-terminal screen-256color\nset -g escape-time 0\n' >"$D/outer.conf"
	printf 'set -g status-right ""\nset -g status-left "[in]"\nset -g automatic-rename off\nset -g escape-time 0\nset -g default-command "exec bash --noprofile --rcfile %s -i"\n' "$D/rc2" >"$D/inner.conf"
	printf 'PS1="in: "\n' >"$D/rc2"
	printf 'fields=0 48 39 1\nsort_key=0\nheader_layout=one_100\ncolumn_meters_0=Blank\ncolumn_meter_modes_0=2\nhide_kernel_threads=1\nenable_mouse=0\nscreen:Main=PID USER NI Command\n' >"$D/htoprc"
	printf 'PS1="READY$ "\n' >"$D/rc"
	sleep 600 & IDLE=$!
	local shell="env LC_ALL=C.UTF-8 bash --noprofile --rcfile $D/rc -i"
	screen_through sshd "/usr/bin/ssh -F $BASELINE -tt dev $shell"
	screen_through ours "$W/bin/s -tt $HOST $shell"
	for ((i = 1; i <= screens; i++)); do cmp -s "$D/sshd.$i" "$D/ours.$i" || fail "screen $i differs in $(diff "$D/sshd.$i" "$D/ours.$i" | grep -c '^<') lines: $(diff "$D/sshd.$i" "$D/ours.$i" | head -4 | cut -c1-60 | tr '\n' '~')"; done
}
