#!/usr/bin/env bash
# Checks an SSH server with the clients people really use, against what OpenSSH's sshd does.
#
#   SSH_CONFIG=<ssh_config file> HOST=<alias in it> ./conformance.sh [name-glob...]
#   -l lists the checks. BIG_MB (default 1024) sizes the big transfers, JOBS (default 1) runs checks side by side,
#   SLOW (default 1) multiplies the time limits, for a machine that does other things as well.
#   KEEP=1 keeps the work folder, ALLOW_SKIP=1 lets a check whose client is not installed be skipped, not failed.
#
# One line a check: 'PASS name' or 'FAIL name: why'; last line 'N passed, M failed'; exit 1 if any failed.
# The server must run on this machine as this user (the checks share files, ports and processes with it).
# Not as root: sshd hands no signals to root's own sessions. sshfs wants /dev/fuse open to that user (chmod 666).
# A ProxyCommand or ProxyJump in the config is honoured: clients that have none of their own go through helpers/bridge.py.
#
# Debian packages: openssh-client putty-tools python3-paramiko python3-asyncssh nodejs npm sshfs rsync curl git
#   xauth procps iproute2 openssl bc
# npm: ssh2 (npm install --ignore-scripts ssh2, here or in a folder named by NODE_PATH)
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
self=$here/$(basename "${BASH_SOURCE[0]}")
py() { /usr/bin/python3 -W ignore "$@"; }
peer() { py "$here/helpers/peer.py" "$@"; }
pyc() { py "$here/helpers/pychecks.py" "$@"; }
fail() { echo "why: $*"; exit 1; }
skip() { echo "skip: $*"; exit 77; }
need() { for c; do command -v "$c" >/dev/null || skip "needs $c"; done; }
eq() { [ "$1" = "$2" ] || fail "$3: got '${1:0:160}', want '${2:0:160}'"; }
same() { cmp -s "$1" "$2" || fail "$3: $(stat -c %s "$1" 2>/dev/null) bytes, want the same as $(stat -c %s "$2")"; }
retry() { local i n=$1; shift; for ((i = 0; i < n * 10; i++)); do "$@" 2>/dev/null && return; sleep 0.1; done; return 1; }
free_port() { py -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# ssh, scp and sftp are wrappers in $W/bin that add -F $SSH_CONFIG; s is ssh that never asks.
serve() { local r=$D/ready.$RANDOM; peer "$1" "$2" --ready "$r" "${@:3}" & retry 10 test -s "$r" || fail "peer $1 did not start"; REPLY=$(cat "$r"); }
tcp_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
forward() { s -N -o ExitOnForwardFailure=yes "$@" "$HOST" & FWD=$!; } # the caller waits for what it asked for

# --- commands without a terminal ---------------------------------------------------------------------------------
check_exec_streams() {
	eq "$(s "$HOST" 'echo out; echo err >&2' 2>"$D/err")" out stdout
	eq "$(cat "$D/err")" err stderr
}
check_exit_codes() {
	local c
	for c in 0 1 7 126 127 254 255; do s "$HOST" "exit $c"; eq $? "$c" "exit code"; done
	s "$HOST" /nonexistent/command 2>/dev/null; eq $? 127 "command not found"  # mutagen decides on 126 and 127
	s "$HOST" /etc 2>/dev/null; eq $? 126 "not executable"
}
check_exit_code_order() { pyc p_order 150; }
check_exit_signal() { pyc a_exit_signal; }
check_signal_delivery() { pyc a_signal; }
check_exec_shell() { # the command goes to the user's shell unparsed, in the home folder
	eq "$(s "$HOST" 'printf "<%s>" "a  b" $((1+1)) "\$HOME" ~; x="q r"; echo ":$x:$PWD"')" "<a  b><2><\$HOME><$HOME>:q r:$HOME" shell
}
check_exec_big_command() { eq "$(s "$HOST" "echo $(head -c 100000 /dev/zero | tr '\0' a) | wc -c")" 100001 "command of 100 kB"; }
check_login_shell() { # no command and no terminal: a login shell that reads the script from stdin
	eq "$(printf 'shopt -q login_shell && echo login || echo other\nexit 5\n' | s -T "$HOST" | tail -1; echo "${PIPESTATUS[1]}")" $'login\n5' "shell"
}
check_env_base() {
	s "$HOST" env >"$D/env" || fail "env exit $?"
	local v
	for v in HOME USER LOGNAME SHELL PATH; do grep -q "^$v=." "$D/env" || fail "no $v"; done
	eq "$(sed -n 's/^SSH_CONNECTION=//p' "$D/env" | wc -w)" 4 "fields of SSH_CONNECTION"
	eq "$(sed -n 's/^SSH_CLIENT=//p' "$D/env" | wc -w)" 3 "fields of SSH_CLIENT"
	! grep -q '^SSH_TTY=' "$D/env" || fail "SSH_TTY without a terminal"
	! grep -q '^TERM=.' "$D/env" || [ "$(sed -n 's/^TERM=//p' "$D/env")" = dumb ] || fail "TERM without a terminal"
}
check_env_send() {
	eq "$(s -o 'SetEnv=LC_ONE="a b" LANG=C.UTF-8' "$HOST" 'echo "$LC_ONE,$LANG"')" "a b,C.UTF-8" SetEnv
	eq "$(LC_TWO='x=y;$z' s -o SendEnv=LC_TWO "$HOST" 'echo "$LC_TWO"')" 'x=y;$z' SendEnv
}
check_no_tty() { eq "$(s -T "$HOST" 'tty; echo $?')" $'not a tty\n1' "tty under -T"; }
check_stdin_half_close() { eq "$(printf abc | s "$HOST" 'cat; sleep 1; echo :after')" abc:after "output after stdin ended"; }
check_stdin_ignored() { head -c 64M /dev/zero | s "$HOST" true; eq "${PIPESTATUS[1]}" 0 "exit of a command that reads no stdin"; }
check_stdin_script() {
	{ seq 30000 | sed 's/.*/x=$((x+1)) # &/'; echo 'echo total $x'; } | s -T "$HOST" bash >"$D/out"
	eq "$(cat "$D/out")" "total 30000" "script on stdin"
}
check_binary_clean() {
	head -c 5000000 /dev/urandom >"$D/f"
	s "$HOST" cat <"$D/f" >"$D/g"; same "$D/g" "$D/f" "binary round trip"
	s "$HOST" 'cat >&2' <"$D/f" 2>"$D/g"; same "$D/g" "$D/f" "binary on stderr"
}
check_stderr_after_stdout() {
	s "$HOST" 'exec >&-; sleep 1; echo late >&2; exit 3' 2>"$D/err"; eq $? 3 exit
	eq "$(tail -1 "$D/err")" late "stderr after stdout was closed"
}
check_background() { # timeout=30   a daemon that let go of the streams does not hold the session, and outlives it
	local t=$SECONDS p
	p=$(s "$HOST" 'sleep 77 >/dev/null 2>&1 </dev/null & echo $!')
	[ $((SECONDS - t)) -lt 10 ] || fail "session held for $((SECONDS - t)) s"
	sleep 2; kill -0 "$p" || fail "the daemon died with its session"
	kill "$p"
}
check_daemon_survives_disconnect() { # an IDE's server must live on when the client vanishes
	s "$HOST" "sleep 78 >/dev/null 2>&1 </dev/null & echo \$! >$D/pid; sleep 60" & local c=$!
	retry 10 test -s "$D/pid" || fail "not started"
	kill -9 $c; sleep 3
	kill -0 "$(cat "$D/pid")" || fail "the daemon died with the connection"
	kill "$(cat "$D/pid")"
}
check_disconnect_ends_stdin() {
	mkfifo "$D/in"; exec 9<>"$D/in"
	s "$HOST" "echo up >$D/up; cat; echo gone >$D/gone" <"$D/in" >/dev/null & local c=$!
	retry 10 test -s "$D/up" || fail "not started"
	kill -9 $c
	retry 10 test -s "$D/gone" || fail "the command's stdin stays open after the client vanished"
}
check_yes_head() { # timeout=30   OpenSSH says eow@openssh.com only to servers that call themselves OpenSSH
	eq "$(s "$HOST" "exec yes y$$" | head -1)" "y$$" "first line"
	retry 5 eval "! pgrep -f '^yes y$$\$' >/dev/null" || { pkill -f "^yes y$$\$"; fail "the command runs on after its reader left"; }
}
# --- terminals ---------------------------------------------------------------------------------------------------
check_pty_basic() {
	TERM=xterm-256color s -tt "$HOST" 'tty; echo "$SSH_TTY"; echo "$TERM"; ps -o stat= -p $$; exit 7' </dev/null 2>/dev/null >"$D/out"; eq $? 7 "exit under a pty"
	tr -d '\r' <"$D/out" >"$D/o"
	grep -q '^/dev/pts/' "$D/o" || fail "no tty: $(head -1 "$D/o")"
	eq "$(sed -n 2p "$D/o")" "$(sed -n 1p "$D/o")" SSH_TTY
	eq "$(sed -n 3p "$D/o")" xterm-256color TERM
	[[ $(sed -n 4p "$D/o") == *s*+* ]] || fail "not leader of a session with a controlling terminal: stat $(sed -n 4p "$D/o")"
}
check_pty_tail() { local i; for i in 1 2 3 4 5; do eq "$(s -tt "$HOST" 'seq 1 50000' </dev/null 2>/dev/null | tail -1 | tr -d '\r')" 50000 "last line"; done; }
check_pty_script() { # a script fed to an interactive shell
	printf 'stty -echo\necho job-$((20+2))\nexit 6\n' | s -tt "$HOST" >"$D/out" 2>/dev/null; eq $? 6 "exit of the shell"
	grep -q job-22 "$D/out" || fail "no output"
	! grep -qi 'no job control' "$D/out" || fail "no job control"
}
check_pty_size_and_winch() { pyc a_pty_size; }
check_pty_winch_before_exec() { pyc p_winch_before_exec; }
check_pty_zero_size() { pyc a_pty_zero; }
check_pty_modes() { pyc a_pty_modes; }
check_pty_raw_bytes() { pyc a_pty_raw; }
check_pty_ctrl_c() { pyc a_pty_ctrl_c; }
check_pty_break() { pyc a_break; }
check_pty_hangup() { # the terminal goes: its session gets SIGHUP
	s -tt "$HOST" "trap 'echo hup >$D/hup; exit' HUP; echo up >$D/up; while :; do sleep 0.1; done" </dev/null >/dev/null 2>&1 & local c=$!
	retry 10 test -s "$D/up" || fail "not started"
	kill -9 $c
	retry 10 test -s "$D/hup" || fail "no SIGHUP when the client vanished"
}
# --- files -------------------------------------------------------------------------------------------------------
tree() { mkdir -p "$1/sub dir/é"; head -c 3000000 /dev/urandom >"$1/big"; echo a >"$1/sub dir/é/ä b"; : >"$1/empty"; chmod 750 "$1/empty"; touch -d '2001-02-03 04:05:06' "$1/big"; ln -s big "$1/link"; }
check_sftp_transfer() {
	head -c 32M /dev/urandom >"$D/f"
	printf 'put %s %s\nget %s %s\n' "$D/f" "$D/g" "$D/g" "$D/h" | sftp -q -b - "$HOST" >/dev/null || fail "sftp exit $?"
	same "$D/h" "$D/f" "sftp round trip"
}
check_sftp_operations() {
	echo one >"$D/one"; echo two >"$D/two"
	sftp -q -b - "$HOST" >"$D/out" <<-X || fail "sftp exit $?: $(tail -1 "$D/out")"
		pwd
		cd $D
		lcd $D
		mkdir d
		put one d/a
		put two d/b
		rename d/a d/b
		symlink b d/sym
		ln d/b d/hard
		chmod 640 d/b
		ls -la d
		df
		rm d/hard
		mkdir d/e
		rmdir d/e
		-rm nosuch
	X
	grep -qx "Remote working directory: $HOME" "$D/out" || fail "sftp starts in $(sed -n 's/Remote working directory: //p' "$D/out"), not $HOME"
	eq "$(cat "$D/d/b" "$D/d/sym")" $'one\none' "rename over a file, symlink"
	eq "$(stat -c %a "$D/d/b")" 640 chmod
	eq "$(ls "$D/d" | xargs)" "b sym" "rm, rmdir"
	grep -q -- '-rw-r-----.* d/b$' "$D/out" || fail "ls -la shows no long names"
}
check_scp_sftp() {
	tree "$D/t"
	scp -s -rpq "$D/t" "$HOST:$D/up" && scp -s -rpq "$HOST:$D/up" "$D/down" || fail "scp exit $?"
	diff -r "$D/t" "$D/down" >/dev/null || fail "trees differ"
	eq "$(stat -c '%a %Y' "$D/down/empty" "$D/down/big")" "$(stat -c '%a %Y' "$D/t/empty" "$D/t/big")" "modes and times"
	echo rel >"$D/r"; scp -q "$D/r" "$HOST:.conformance-$$" && eq "$(cat ~/".conformance-$$"; rm -f ~/".conformance-$$")" rel "target relative to home"
}
check_scp_legacy() {
	tree "$D/t"
	scp -O -rpq "$D/t" "$HOST:$D/up" && scp -O -rpq "$HOST:$D/up" "$D/down" || fail "scp -O exit $?"
	diff -r "$D/t" "$D/down" >/dev/null || fail "trees differ"
	eq "$(stat -c '%a %Y' "$D/down/empty" "$D/down/big")" "$(stat -c '%a %Y' "$D/t/empty" "$D/t/big")" "modes and times"
	scp -O -q "$HOST:$D/nosuch" "$D/x" 2>/dev/null && fail "scp of a missing file succeeded"; :
}
check_rsync() {
	need rsync; tree "$D/t"
	rsync -a --delete "$D/t/" "$HOST:$D/up/" && rsync -az "$HOST:$D/up/" "$D/down/" || fail "rsync exit $?"
	diff -r "$D/t" "$D/down" >/dev/null || fail "trees differ"
	rm "$D/t/big"; rsync -a --delete "$D/t/" "$HOST:$D/up/" && [ ! -e "$D/up/big" ] || fail "--delete"
}
check_sshfs() {
	need sshfs fusermount3; [ -w /dev/fuse ] || skip "no /dev/fuse"
	mkdir "$D/real" "$D/mnt"; head -c 8M /dev/urandom >"$D/f"
	sshfs -o ssh_command="$W/bin/ssh" "$HOST:$D/real" "$D/mnt" || fail "mount failed"
	( cp "$D/f" "$D/mnt/f" && mv "$D/mnt/f" "$D/mnt/g" && git init -q "$D/mnt/repo" && touch -d 2001-02-03 "$D/mnt/g" && ls "$D/mnt" >"$D/ls" ); local rc=$?
	fusermount3 -u "$D/mnt" || fusermount3 -uz "$D/mnt"
	eq $rc 0 "file operations"; same "$D/real/g" "$D/f" "file written through sshfs"
	eq "$(stat -c %y "$D/real/g" | cut -c1-10)" 2001-02-03 mtime
}
check_git() {
	export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@t GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@t GIT_CONFIG_GLOBAL=/dev/null
	git init -q --bare "$D/r.git"; git init -q "$D/a"; head -c 20M /dev/urandom >"$D/a/big"
	git -C "$D/a" add . && git -C "$D/a" commit -qm one && git -C "$D/a" push -q "ssh://$HOST$D/r.git" HEAD:refs/heads/main || fail "push"
	git clone -q -b main "$HOST:$D/r.git" "$D/b" 2>/dev/null && same "$D/b/big" "$D/a/big" "clone" || fail "clone"
}
# --- forwards ----------------------------------------------------------------------------------------------------
check_forward_L_tcp() { # a server that sends and closes: nothing may be lost, fast or slow reader
	serve blast-server tcp:127.0.0.1:0 --bytes 30000000; local p; p=$(free_port); forward -L "$p:127.0.0.1:$REPLY"
	retry 10 tcp_open "$p" || fail "no listener"
	local i; for i in 1 2 3; do peer blast-client "tcp:127.0.0.1:$p" --bytes 30000000 || exit 1; done
	peer blast-client "tcp:127.0.0.1:$p" --bytes 30000000 --delay 2
}
check_forward_L_half_close() {
	serve digest-server tcp:127.0.0.1:0; local p; p=$(free_port); forward -L "$p:localhost:$REPLY"
	retry 10 tcp_open "$p" || fail "no listener"
	local i; for i in 1 2 3; do peer digest-client "tcp:127.0.0.1:$p" || exit 1; done
}
check_forward_L_unix() { # VS Code with remoteServerListenOnSocket, docker over ssh
	serve digest-server "unix:$D/r.sock"; local p; p=$(free_port); forward -L "$p:$D/r.sock" -L "$D/l.sock:$D/r.sock"
	retry 10 tcp_open "$p" || fail "no listener"
	peer digest-client "tcp:127.0.0.1:$p" && peer digest-client "unix:$D/l.sock"
}
check_forward_R_tcp() {
	serve digest-server tcp:127.0.0.1:0; local p; p=$(free_port); forward -R "$p:127.0.0.1:$REPLY"
	retry 10 tcp_open "$p" || fail "no listener on the far side"
	[ -z "$(ss -Hltn "sport = :$p" | grep -v -e 127.0.0.1 -e '\[::1\]')" ] || fail "listens beyond loopback"
	peer digest-client "tcp:127.0.0.1:$p" || exit 1
	kill $FWD; wait $FWD 2>/dev/null; retry 10 eval "! tcp_open $p" || fail "still listens after the client left"
}
check_forward_R_any() { # sshd without GatewayPorts keeps '*' on loopback
	local p; p=$(free_port); forward -R "*:$p:127.0.0.1:1"; retry 10 tcp_open "$p" || fail "no listener"
	[ -z "$(ss -Hltn "sport = :$p" | grep -v -e 127.0.0.1 -e '\[::1\]')" ] || fail "-R '*:port' listens beyond loopback"
}
check_forward_R_busy() {
	serve http-server tcp:127.0.0.1:0; [ ! -e /proc/net/if_inet6 ] || serve http-server "tcp:::1:$REPLY"
	s -o ExitOnForwardFailure=yes -R "$REPLY:127.0.0.1:1" "$HOST" true 2>/dev/null && fail "a busy port was granted"; :
}
check_forward_R_dynamic() { # port 0 and cancel, as JetBrains' debuggers ask
	serve http-server tcp:127.0.0.1:0; local m=$D/m a b
	s -fN -M -S "$m" "$HOST" || fail "master"
	a=$(s -S "$m" -O forward -R "0:127.0.0.1:$REPLY" "$HOST") && b=$(s -S "$m" -O forward -R "0:localhost:$REPLY" "$HOST") || fail "-R 0 refused"
	[ "$a" != "$b" ] || fail "two requests got the same port"
	eq "$(curl -s "127.0.0.1:$a/") $(curl -s "127.0.0.1:$b/")" "hello hello" "both ports"
	s -S "$m" -O cancel -R "0:127.0.0.1:$REPLY" "$HOST" || fail "cancel"
	retry 5 eval "! tcp_open $a" || fail "cancelled port still listens"
	tcp_open "$b" || fail "cancel took the other port too"
	s -S "$m" -O exit "$HOST" 2>/dev/null
}
check_forward_R_unix() { # gpg-agent forwarding
	serve digest-server tcp:127.0.0.1:0; forward -R "$D/far.sock:127.0.0.1:$REPLY"
	retry 10 test -S "$D/far.sock" || fail "no socket on the far side"
	eq "$(stat -c %a "$D/far.sock")" 600 "mode of the socket"
	peer digest-client "unix:$D/far.sock"
}
check_forward_D_socks() {
	serve http-server tcp:127.0.0.1:0; local p; p=$(free_port); forward -D "$p"; retry 10 tcp_open "$p" || fail "no listener"
	eq "$(curl -s --socks5-hostname "127.0.0.1:$p" "http://localhost:$REPLY/1000000" | wc -c)" 1000006 "socks5 by name"
	eq "$(curl -s --socks4a "127.0.0.1:$p" "http://127.0.0.1:$REPLY/")" hello socks4a
}
check_forward_W() {
	serve digest-server tcp:127.0.0.1:0
	eq "$(printf data | s -W "127.0.0.1:$REPLY" "$HOST" | tail -1)" data "-W"
	eq "$(ssh -o ProxyCommand="$W/bin/ssh -W $C_HOST:$C_PORT $HOST" "$HOST" echo jumped)" jumped "jump through itself"
}
check_forward_refused() {
	local p q; p=$(free_port); q=$(free_port); s -L "$p:127.0.0.1:$q" "$HOST" "touch $D/up; sleep 3; echo alive" >"$D/out" 2>"$D/err" & local c=$!
	retry 10 test -e "$D/up"; timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$p; cat <&3" >/dev/null; [ $? -ne 124 ] || fail "hangs"
	wait $c; eq "$(cat "$D/out")" alive "session beside a refused forward"
	grep -q 'open failed: connect failed' "$D/err" || fail "refusal is reported as: $(tail -1 "$D/err")"
}
check_forward_parallel() { serve digest-server tcp:127.0.0.1:0; pyc a_tcp 200 "$REPLY"; }
check_agent() {
	eval "$(ssh-agent -a "$D/agent" | grep -v echo)"; trap 'kill $SSH_AGENT_PID' EXIT
	ssh-keygen -qt ed25519 -N '' -C forwarded -f "$D/k"; ssh-add -q "$D/k"
	s -o "IdentityAgent=$D/agent" -A "$HOST" 'ssh-add -l; stat -c %a "$(dirname "$SSH_AUTH_SOCK")"' >"$D/out" 2>&1
	grep -q forwarded "$D/out" || fail "ssh-add -l there: $(head -1 "$D/out")"
	eq "$(tail -1 "$D/out")" 700 "mode of the socket's folder"
	s "$HOST" 'ssh-add -l' 2>&1 | grep -q forwarded && fail "a session without -A reaches the client's agent"
	local m=$D/m sock # VS Code links to the socket of its first session and uses it in later ones
	s -o "IdentityAgent=$D/agent" -A -fN -M -S "$m" "$HOST"
	sock=$(s -A -S "$m" "$HOST" 'echo $SSH_AUTH_SOCK')
	s -A -S "$m" "$HOST" "SSH_AUTH_SOCK=$sock ssh-add -l" 2>&1 | grep -q forwarded || fail "the agent socket dies with the session that asked for it"
	s -S "$m" -O exit "$HOST" 2>/dev/null
	retry 5 eval "! SSH_AUTH_SOCK=$sock ssh-add -l 2>&1 | grep -q forwarded" || fail "the agent is reachable after its client left"
}
check_x11() {
	need xauth; local n=$((7000 + RANDOM % 500)) c; c=$(openssl rand -hex 16); mkdir -p /tmp/.X11-unix
	xauth -q -f "$D/xa" add ":$n" . "$c"; serve x-server "unix:/tmp/.X11-unix/X$n" --cookie "$c"; trap "rm -f /tmp/.X11-unix/X$n; kill \$(jobs -p)" EXIT
	export DISPLAY=:$n XAUTHORITY=$D/xa
	eq "$(s -Y "$HOST" "unset XAUTHORITY; $here/helpers/peer.py x-client")" OK "X11 connection"
	eq "$(s -x "$HOST" 'echo "[$DISPLAY]"')" "[]" "DISPLAY without -X"
}
# --- many at once, big, long -------------------------------------------------------------------------------------
check_sessions_parallel() { pyc a_sessions 200; } # timeout=240
check_connections_parallel() {
	local i p=(); for i in $(seq 40); do s "$HOST" "echo $i; exit $i" >"$D/$i" 2>/dev/null & p+=($!); done
	for i in $(seq 40); do wait "${p[i-1]}"; eq $? "$i" "exit of connection $i"; eq "$(cat "$D/$i")" "$i" "output of connection $i"; done
}
check_mux() {
	local m=$D/m i p=(); s -fN -M -S "$m" "$HOST" || fail master
	for i in $(seq 30); do (eq "$(echo "in$i" | s -S "$m" "$HOST" 'cat; echo err >&2; exit 9' 2>/dev/null; echo $?)" "in$i"$'\n9' "session $i") & p+=($!); done
	for i in "${p[@]}"; do wait "$i" || fail "a multiplexed session failed"; done
	s -S "$m" -O check "$HOST" 2>/dev/null && s -S "$m" -O exit "$HOST" 2>/dev/null || fail "mux control"
}
gen() { openssl enc -aes-128-ctr -K "$1" -iv 00000000000000000000000000000000 -in /dev/zero 2>/dev/null | head -c "${BIG_MB:-1024}M"; }
check_big_upload() { # timeout=400
	eq "$(gen 0a | s "$HOST" 'openssl dgst -sha256 -r | cut -c1-64')" "$(gen 0a | openssl dgst -sha256 -r | cut -c1-64)" "hash of ${BIG_MB:-1024} MiB sent"
}
check_big_download() { # timeout=400
	eq "$(s "$HOST" "openssl enc -aes-128-ctr -K 0b -iv 00000000000000000000000000000000 -in /dev/zero 2>/dev/null | head -c ${BIG_MB:-1024}M" | openssl dgst -sha256 -r | cut -c1-64)" "$(gen 0b | openssl dgst -sha256 -r | cut -c1-64)" "hash of ${BIG_MB:-1024} MiB received"
}
check_rekey() {
	head -c 100M /dev/urandom >"$D/f"; s -o RekeyLimit=2M "$HOST" cat <"$D/f" >"$D/g" 2>"$D/err" || fail "exit $?: $(tail -1 "$D/err")"
	same "$D/g" "$D/f" "both ways under rekeying"
}
# --- the protocol ------------------------------------------------------------------------------------------------
check_keepalive() { eq "$(s -o ServerAliveInterval=1 -o ServerAliveCountMax=1 "$HOST" 'sleep 5; echo alive')" alive "idle session"; }
check_unknown_requests() { pyc a_unknown; }
check_unknown_channel() { pyc p_unknown_channel; }
check_unknown_subsystem() { s -s "$HOST" nosuch </dev/null >/dev/null 2>&1; local r=$?; [ $r -ne 0 ] && [ $r -ne 124 ] || fail "exit $r"; }
check_strict_kex() { s -vv "$HOST" true 2>&1 | sed -n '/peer server KEXINIT/,/ciphers/p' | grep -q kex-strict-s || fail "no kex-strict-s-v00@openssh.com (Terrapin)"; }
check_compression() { eq "$(s -C "$HOST" 'seq 20000' | md5sum)" "$(seq 20000 | md5sum)" "-C"; }
check_host_keys() { # several host keys: known_hosts learns the others (hostkeys-00@openssh.com), so keys can be rotated
	s -o UserKnownHostsFile="$D/kh" -o StrictHostKeyChecking=accept-new -o UpdateHostKeys=no "$HOST" true 2>/dev/null
	s -o UserKnownHostsFile="$D/kh" -o UpdateHostKeys=yes "$HOST" 'sleep 1' || fail "exit $?"
	[ "$(wc -l <"$D/kh")" -ge 2 ] || fail "known_hosts has $(wc -l <"$D/kh") key(s) after UpdateHostKeys"
}
# --- other clients, and the ways IDEs work -----------------------------------------------------------------------
check_paramiko() { pyc p_exec "$D"; }
check_ssh2_node() {
	need node; NODE_PATH=$here/npm/node_modules:$here/node_modules:${NODE_PATH:-}; export NODE_PATH
	node -e 'require("ssh2")' 2>/dev/null || skip "needs npm package ssh2"
	local port; serve http-server tcp:127.0.0.1:0; port=$REPLY; serve http-server "unix:$D/http.sock"
	node "$here/helpers/ssh2check.js" "$D" "$port" "$D/http.sock" 2>&1 | grep -v -e '^ ' -e '^$' | head -3; return "${PIPESTATUS[0]}"
}
check_putty() {
	need plink pscp psftp puttygen; export HOME=$D; local a=(-batch -l "$C_USER" -P "$C_PORT") k
	puttygen "$C_KEY" -o "$D/k.ppk" 2>/dev/null && a+=(-i "$D/k.ppk")
	for k in $(ssh-keyscan -p "$C_PORT" "$C_HOST" 2>/dev/null | ssh-keygen -lf - | cut -d' ' -f2); do a+=(-hostkey "$k"); done
	eq "$(printf in | plink "${a[@]}" "$C_HOST" 'cat; echo err >&2; exit 7' 2>/dev/null; echo $?)" in7 plink
	head -c 3M /dev/urandom >"$D/f"
	pscp -q -sftp "${a[@]}" "$D/f" "$C_HOST:$D/g" && pscp -q -scp "${a[@]}" "$C_HOST:$D/g" "$D/h" || fail pscp
	same "$D/h" "$D/f" "pscp round trip"
	printf 'get %s %s\nquit\n' "$D/g" "$D/i" >"$D/b"; psftp "${a[@]}" -b "$D/b" "$C_HOST" >/dev/null || fail psftp; same "$D/i" "$D/f" psftp
}
check_vscode_flow() { # timeout=120   Remote-SSH: ssh -T -D port -o ConnectTimeout=15 host bash, the script on stdin, then the tunnel
	local socks p sock i pids=(); socks=$(free_port); sock=$D/vs.sock; mkfifo "$D/in"; exec 9<>"$D/in"
	cat >"$D/install.sh" <<-X
		echo "a1b2: running"; umask 077; mkdir -p $D/vs; cd $D/vs
		/usr/bin/python3 $here/helpers/peer.py http-server tcp:127.0.0.1:0 --ready $D/vs/port &> log < /dev/null & echo \$! > pid
		/usr/bin/python3 $here/helpers/peer.py http-server unix:$sock --ready $D/vs/sock &> log2 < /dev/null & echo \$! >> pid
		while [ ! -s port ] || [ ! -s sock ]; do sleep 0.1; done
		echo "a1b2: start"; echo "SSH_AUTH_SOCK==\$SSH_AUTH_SOCK=="; echo "listeningOn==\$(cat port)=="; echo "platform==linux=="; echo "a1b2: end"
		$(seq 4000 | sed 's/.*/# padding to make the script as long as the real one &/')
		cat >/dev/null
	X
	ssh -v -T -D "$socks" -o ConnectTimeout=15 "$HOST" bash <"$D/in" >"$D/out" 2>"$D/err" & local c=$!
	cat "$D/install.sh" >&9
	retry 20 grep -q 'a1b2: end' "$D/out" || fail "the install script did not end: $(tail -1 "$D/out")"
	p=$(sed -n 's/^listeningOn==\(.*\)==/\1/p' "$D/out")
	eq "$(curl -s --socks5-hostname "127.0.0.1:$socks" "http://127.0.0.1:$p/")" hello "server through -D"
	for i in $(seq 20); do curl -s --socks5-hostname "127.0.0.1:$socks" "http://localhost:$p/2000000" -o "$D/c$i" & pids+=($!); done
	for i in $(seq 20); do wait "${pids[i-1]}"; eq "$(stat -c %s "$D/c$i")" 2000006 "parallel request $i"; done
	i=$(free_port); s -T -L "$i:$sock" "$HOST" 'echo ready; cat' <"$D/in" >"$D/out2" & local c2=$! # remoteServerListenOnSocket
	retry 10 grep -q ready "$D/out2"; eq "$(curl -s "http://127.0.0.1:$i/")" hello "server on a socket through -L"
	kill -9 $c $c2; sleep 2; kill -0 $(cat "$D/vs/pid") || fail "the IDE's server died with the connection"
	i=$(free_port); forward -L "$i:127.0.0.1:$p"; retry 10 tcp_open "$i"; eq "$(curl -s "http://127.0.0.1:$i/")" hello "after reconnecting"
	kill $(cat "$D/vs/pid")
}
check_zed_flow() { # timeout=120   a ControlMaster with -N, then sftp, scp -C, sh -c, a framed proxy and -L through it
	local m=$D/z p; s -N -o ControlPersist=no -o ControlMaster=yes -o "ControlPath=$m" "$HOST" >/dev/null & local c=$!
	retry 10 test -S "$m" || fail "no master"
	local o=(-o ControlMaster=no -o "ControlPath=$m")
	eq "$(s "${o[@]}" -T "$HOST" uname -sm)" "$(uname -sm)" uname
	head -c 20M /dev/urandom >"$D/bin"; gzip -k "$D/bin"
	printf 'put %s %s\n' "$D/bin.gz" "$D/tmp.gz" | sftp -q "${o[@]}" -b - "$HOST" >/dev/null || fail sftp
	s "${o[@]}" -T "$HOST" sh -c "'gunzip -f $D/tmp.gz && chmod 755 $D/tmp && mv $D/tmp $D/server'" || fail extract
	same "$D/server" "$D/bin" upload; mkdir "$D/x"; scp -q -C -r "${o[@]}" "$D/x" "$HOST:$D/y" || fail "scp -C -r"
	peer frame-client "$W/bin/ssh" "${o[@]}" -T "$HOST" "env RUST_LOG=info $here/helpers/peer.py frame-echo" || exit 1
	serve http-server tcp:127.0.0.1:0; p=$(free_port); s "${o[@]}" -N -L "$p:127.0.0.1:$REPLY" "$HOST" &
	retry 10 tcp_open "$p"; eq "$(curl -s "127.0.0.1:$p/")" hello "forward through the master"; kill $c
}

# --- the runner --------------------------------------------------------------------------------------------------
# shellcheck source=scripts/conformance/clients.sh
. "$here/clients.sh"
sources=("$self" "$here/clients.sh")
all() { sed -n 's/^check_\([A-Za-z0-9_]*\)().*/\1/p' "${sources[@]}"; }
case ${1:-} in
-l) all; exit ;;
--one) D=$W/$2.d; mkdir -p "$D"; trap 'kill $(jobs -p) 2>/dev/null' EXIT; "check_$2"; exit ;;
esac
: "${SSH_CONFIG:?the ssh_config to use}" "${HOST:?the host alias in it}"
SSH_CONFIG=$(realpath "$SSH_CONFIG")
export SSH_CONFIG HOST BIG_MB=${BIG_MB:-1024}
W=$(mktemp -d "${TMPDIR:-/tmp}/conf.XXXXXX"); export W
chmod 700 "$W"; mkdir "$W/bin"
for c in ssh scp sftp; do
	printf '#!/bin/sh\nexec %s -F %q "$@"\n' "$(command -v $c)" "$SSH_CONFIG" >"$W/bin/$c"
done
printf '#!/bin/sh\nexec %s -F %q -o BatchMode=yes -o ConnectTimeout=15 "$@"\n' "$(command -v ssh)" "$SSH_CONFIG" >"$W/bin/s"
chmod +x "$W"/bin/*
export PATH=$W/bin:$PATH:/usr/sbin
unset SSH_AUTH_SOCK DISPLAY
g=$(ssh -T -G "$HOST" </dev/null) || exit 2
get() { sed -n "s/^$1 //p" <<<"$g" | head -1; }
C_HOST=$(get hostname) C_PORT=$(get port) C_USER=$(get user) C_PROXIED=$(get proxycommand) C_KEY= C_PEM=
for k in $(sed -n 's/^identityfile //p' <<<"$g"); do k=${k/#\~/$HOME}; [ -f "$k" ] && C_KEY=$k && break; done
if [ "$C_KEY" ]; then # a copy in the older format, which JSch, libssh2 and dropbear read
	C_PEM=$W/key.pem; cp "$C_KEY" "$C_PEM"; chmod 600 "$C_PEM"
	ssh-keygen -q -p -P '' -N '' -m PEM -f "$C_PEM" >/dev/null; ssh-keygen -y -f "$C_PEM" >"$C_PEM.pub"
fi
# What ssh makes of a ProxyJump, spelled out.
if jump=$(get proxyjump) && [ "$jump" ] && [ "$jump" != none ]; then
	jump=${jump//%n/$HOST}; jump=${jump//[\[\]]/}; [[ $jump =~ ^(.*):([0-9]+)$ ]] && jump="-p ${BASH_REMATCH[2]} ${BASH_REMATCH[1]}"
	C_PROXIED="$W/bin/ssh -W [%h]:%p $jump"
fi
cleanup() { [ "${BRIDGE:-}" ] && kill "$BRIDGE" 2>/dev/null; [ "${KEEP:-}" ] && echo "kept $W" >&2 || rm -rf "$W"; }
trap cleanup EXIT
if [ "$C_PROXIED" ] && [ "$C_PROXIED" != none ]; then
	cmdline=${C_PROXIED//%h/$C_HOST}; cmdline=${cmdline//%n/$HOST}; cmdline=${cmdline//%p/$C_PORT}; cmdline=${cmdline//%r/$C_USER}
	/usr/bin/python3 "$here/helpers/bridge.py" "$W/bridge" "$cmdline" 2>/dev/null & BRIDGE=$!
	retry 10 test -s "$W/bridge" || exit 2
	C_HOST=127.0.0.1 C_PORT=$(cat "$W/bridge")
fi
export C_HOST C_PORT C_USER C_KEY C_PEM C_PROXIED
run() {
	local n=$1 t r why start=$EPOCHREALTIME
	t=$(sed -n "s/^check_$n() {.*# timeout=\([0-9]*\).*/\1/p" "${sources[@]}")
	t=$((${t:-60} * ${SLOW:-1}))
	timeout -k 5 "$t" bash "$self" --one "$n" >"$W/$n.log" 2>&1 </dev/null & local pid=$!
	wait $pid; r=$?
	kill -KILL -- -$pid 2>/dev/null # whatever the check left in its process group
	why=$(sed -n 's/^why: //p; s/^skip: //p' "$W/$n.log" | head -1); [ "$why" ] || why=$(grep -v '^$' "$W/$n.log" | tail -1)
	case $r in
	0) echo "PASS $n" ;;
	77) [ "${ALLOW_SKIP:-}" ] && echo "SKIP $n: $why" || echo "FAIL $n: $why" ;;
	124 | 137) echo "FAIL $n: no end within $t s ${why:+($why)}" ;;
	*) echo "FAIL $n: ${why:-exit $r}" ;;
	esac
	[ "${TIMES:-}" ] && printf '%s %.1f s\n' "$n" "$(bc <<<"$EPOCHREALTIME - $start")" >&2
}
names=$(all)
if [ $# -gt 0 ]; then names=$(for n in $names; do for p; do [[ $n == $p ]] && echo "$n" && break; done; done); fi
for n in $names; do
	while [ "$(jobs -pr | grep -cvx "${BRIDGE:-x}")" -ge "${JOBS:-1}" ]; do sleep 0.05; done
	if [ "${JOBS:-1}" -gt 1 ]; then run "$n" >"$W/result.$n" & else run "$n" | tee "$W/result.$n"; fi
done
for j in $(jobs -p); do [ "$j" = "${BRIDGE:-}" ] || wait "$j"; done
[ "${JOBS:-1}" -gt 1 ] && for n in $names; do cat "$W/result.$n"; done
p=$(cat "$W"/result.* | grep -c ^PASS) f=$(cat "$W"/result.* | grep -c ^FAIL) k=$(cat "$W"/result.* | grep -c ^SKIP)
echo "$p passed, $f failed$([ "$k" -gt 0 ] && echo ", $k skipped")"
[ "$f" -eq 0 ]
