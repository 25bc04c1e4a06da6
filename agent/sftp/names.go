package sftp

import (
	"fmt"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// names are users' and groups' names, as far as they have been asked for.
type names struct {
	users, groups map[uint32]string
}

const maxNames = 4096

func remember(m *map[uint32]string, id uint32, lookUp func(string) (string, error)) string {
	if name, ok := (*m)[id]; ok {
		return name
	}
	if *m == nil || len(*m) >= maxNames {
		*m = make(map[uint32]string)
	}
	name, err := lookUp(strconv.FormatUint(uint64(id), 10))
	if err != nil {
		name = ""
	}
	(*m)[id] = name
	return name
}

// user returns the name of a uid, "" where there is none.
func (n *names) user(id uint32) string {
	return remember(&n.users, id, func(id string) (string, error) {
		u, err := user.LookupId(id)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

// group returns the name of a gid, "" where there is none.
func (n *names) group(id uint32) string {
	return remember(&n.groups, id, func(id string) (string, error) {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

// long is a file's line of "ls -l".
func (n *names) long(name string, st *unix.Stat_t) string {
	u, g := n.user(st.Uid), n.group(st.Gid)
	if u == "" {
		u = strconv.FormatUint(uint64(st.Uid), 10)
	}
	if g == "" {
		g = strconv.FormatUint(uint64(st.Gid), 10)
	}
	t := time.Unix(st.Mtim.Unix())
	layout := "Jan _2 15:04"
	if age := time.Since(t); age > 365*24*time.Hour/2 || age < 0 {
		layout = "Jan _2  2006"
	}
	return fmt.Sprintf("%s %3d %-8s %-8s %8d %s %s", modeString(uint32(st.Mode)), st.Nlink, u, g, st.Size, t.Format(layout), name)
}

// modeString is a mode as "ls -l" shows it.
func modeString(mode uint32) string {
	kinds := map[uint32]byte{
		unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}
	b := []byte("?rwxrwxrwx ")
	if k, ok := kinds[mode&unix.S_IFMT]; ok {
		b[0] = k
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	for _, special := range []struct {
		bit, at uint32
		letter  byte
	}{{unix.S_ISUID, 3, 's'}, {unix.S_ISGID, 6, 's'}, {unix.S_ISVTX, 9, 't'}} {
		switch {
		case mode&special.bit == 0:
		case b[special.at] == 'x':
			b[special.at] = special.letter
		default:
			b[special.at] = special.letter - 'a' + 'A'
		}
	}
	return string(b)
}
