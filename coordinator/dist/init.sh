#!/bin/sh
# Berth's bootstrap script: it fetches the agent of this workspace, checks it, and becomes it.
# It needs a POSIX shell, one of curl, wget and busybox, and one of sha256sum, busybox, openssl and shasum.
set -eu
umask 077

berth_url=@URL@
berth_insecure=@INSECURE@
# What is downloaded must have one of these SHA-256 digests.
berth_sums=@SUMS@
# The certificate authority of the coordinator, where it is not publicly trusted.
berth_ca=@CA@

say() { printf 'berth: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

usage() {
	die "usage: init.sh [--token TOKEN]; the agent's token comes from --token or BERTH_AGENT_TOKEN"
}

platform() {
	[ "$(uname -s)" = Linux ] || die "the agent runs on Linux only, and this is $(uname -s)"
	case $(uname -m) in
	x86_64 | amd64) arch=amd64 ;;
	aarch64 | arm64) arch=arm64 ;;
	*) die "there is no agent for this machine ($(uname -m)): only for x86_64 and aarch64" ;;
	esac
	sum=
	for entry in $berth_sums; do
		case $entry in linux/$arch=*) sum=${entry#*=} ;; esac
	done
	[ -n "$sum" ] || die "this coordinator carries no agent for linux/$arch"
}

# usable makes and checks a private directory: ours, mode 0700, no link, and programs in it may run.
# A directory that somebody else made in a shared place must not decide what we run.
usable() {
	case $1 in /*) ;; *) return 1 ;; esac
	[ -d "$1" ] || mkdir -m 700 "$1" 2>/dev/null || return 1
	[ ! -L "$1" ] || return 1
	found=$(LC_ALL=C ls -ldn "$1" 2>/dev/null) || return 1
	# shellcheck disable=SC2086 # fields are wanted
	set -- "$1" $found
	[ "${4:-}" = "$uid" ] || return 1
	case $2 in
	drwx------*) ;;
	d*) chmod 700 "$1" 2>/dev/null || return 1 ;;
	*) return 1 ;;
	esac
	probe=$1/.probe.$$
	{ printf '#!/bin/sh\nexit 0\n' >"$probe" && chmod 700 "$probe"; } 2>/dev/null || return 1
	if "$probe" 2>/dev/null; then rm -f "$probe"; return 0; fi
	rm -f "$probe"
	return 1
}

runtime() {
	uid=$(id -u)
	for dir in "${BERTH_RUNTIME_DIR:-}" /run/berth "${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/berth}" \
		"/dev/shm/berth-$uid" "/tmp/berth-$uid"; do
		[ -n "$dir" ] || continue
		if usable "$dir"; then return; fi
	done
	die "no private directory for programs: tried \$BERTH_RUNTIME_DIR, /run/berth, \$XDG_RUNTIME_DIR/berth, /dev/shm/berth-$uid and /tmp/berth-$uid (each must belong to uid $uid, be no link, and allow execution)"
}

digest() {
	if have sha256sum; then
		out=$(sha256sum <"$1")
	elif have busybox && busybox sha256sum </dev/null >/dev/null 2>&1; then
		out=$(busybox sha256sum <"$1")
	elif have openssl; then
		out=$(openssl dgst -sha256 <"$1")
		out=${out##* }
	elif have shasum; then
		out=$(shasum -a 256 <"$1")
	else
		die "cannot check the agent: none of sha256sum, busybox, openssl and shasum is there; install one in the image"
	fi
	printf '%s' "${out%% *}"
}

# proxies gives every downloader the lower-case names, which is what each of them reads.
proxies() {
	https_proxy=${https_proxy:-${HTTPS_PROXY:-}}
	http_proxy=${http_proxy:-${HTTP_PROXY:-}}
	no_proxy=${no_proxy:-${NO_PROXY:-}}
	all_proxy=${all_proxy:-${ALL_PROXY:-}}
	[ -n "$https_proxy" ] || https_proxy=$all_proxy
	[ -n "$http_proxy" ] || http_proxy=$all_proxy
	for v in https_proxy http_proxy no_proxy; do
		if eval "[ -n \"\$$v\" ]"; then export "${v?}"; else unset "$v"; fi
	done
}

# direct reports whether no_proxy names the coordinator; busybox's wget does not look there itself.
direct() {
	host=${berth_url#*://}
	host=${host%%/*}
	case $host in
	\[*) host=${host#\[}; host=${host%%\]*} ;;
	*) host=${host%%:*} ;;
	esac
	rest=${no_proxy:-},
	while [ -n "$rest" ]; do
		one=${rest%%,*}
		rest=${rest#*,}
		one=${one# }
		one=${one#.}
		case $one in
		'') continue ;;
		'*') return 0 ;;
		esac
		case $host in "$one" | *."$one") return 0 ;; esac
	done
	return 1
}

# bb_wget sets no timeout: with -T, the wget of some static busyboxes crashes.
bb_wget() {
	if direct; then unset http_proxy https_proxy; fi
	"$@" -q -O "$file" "$from"
}

# fetch downloads $from to $file once. The digest is checked after it, whatever carried the bytes.
fetch() {
	if have curl; then
		curl -fsS --connect-timeout 15 --speed-limit 100 --speed-time 30 ${ca_file:+--cacert "$ca_file"} -o "$file" "$from"
	elif have wget && wget --version 2>/dev/null | grep -q 'GNU Wget'; then
		wget -nv --tries=1 --timeout=20 ${ca_file:+--ca-certificate="$ca_file"} -O "$file" "$from"
	elif have wget; then
		bb_wget wget
	elif have busybox; then
		bb_wget busybox wget
	else
		die "cannot download the agent: none of curl, wget and busybox is there; install one in the image"
	fi
}

# executable lets everybody run the agent: a root agent starts it again as the workspace's user, for sftp and scp.
executable() { chmod 755 "$1"; }

download() {
	file=$dir/.agent.$$
	from=$berth_url/dist/$sum/berth-agent
	trap 'rm -f "$file"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	pause=1 tries=@TRIES@
	while :; do
		rm -f "$file"
		if fetch; then break; fi
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || die "cannot download the agent from $from"
		say "cannot download the agent from $from, trying again in $pause s"
		sleep "$pause"
		[ "$pause" -ge 16 ] || pause=$((pause * 2))
	done
	got=$(digest "$file") || exit 1
	[ "$got" = "$sum" ] ||
		die "what came from $from is not the agent (SHA-256 $got, not $sum); a proxy may have put its own page there"
	executable "$file"
	mv -f "$file" "$agent"
	trap - EXIT INT TERM
}

main() {
	while [ $# -gt 0 ]; do
		case $1 in
		--token)
			[ $# -ge 2 ] || usage
			BERTH_AGENT_TOKEN=$2
			shift
			;;
		--token=*) BERTH_AGENT_TOKEN=${1#--token=} ;;
		*) usage ;;
		esac
		shift
	done
	[ -n "${BERTH_AGENT_TOKEN:-}${BERTH_AGENT_TOKEN_FILE:-}" ] || usage
	# A template may know a nearer address of the same coordinator; the digests stay what they are.
	berth_url=${BERTH_AGENT_URL:-$berth_url}
	berth_url=${berth_url%/}
	platform
	runtime
	ca_file=
	if [ -n "$berth_ca" ]; then
		ca_file=$dir/coordinator-ca.pem
		rm -f "$ca_file"
		printf '%s\n' "$berth_ca" >"$ca_file" || die "cannot write $ca_file"
		BERTH_AGENT_CA_FILE=$ca_file
		export BERTH_AGENT_CA_FILE
	fi
	agent=$dir/berth-agent-$sum
	if [ ! -f "$agent" ] || [ -L "$agent" ] || [ "$(digest "$agent")" != "$sum" ]; then
		(proxies; download) || exit $?
	else
		executable "$agent"
	fi
	BERTH_AGENT_URL=$berth_url
	export BERTH_AGENT_URL
	[ -z "${BERTH_AGENT_TOKEN:-}" ] || export BERTH_AGENT_TOKEN
	[ -z "$berth_insecure" ] || { BERTH_INSECURE_HTTP=$berth_insecure; export BERTH_INSECURE_HTTP; }
	exec "$agent"
}

# In a function and called in the last line, so that half a script does nothing.
main "$@"
