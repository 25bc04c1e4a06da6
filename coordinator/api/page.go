package api

import (
	"encoding/base64"
	"strconv"

	"berth/coordinator"
	"berth/coordinator/rest"
)

// A PageInput asks for one page of a listing.
type PageInput struct {
	Cursor string `query:"cursor" maxLength:"400" doc:"the next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

// after is the cursor's content: a key of the last row of the page before.
func (p PageInput) after() (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil {
		return "", coordinator.Errorf(coordinator.CodeInvalid, "the cursor is not valid").WithHint("begin again without one")
	}
	return string(b), nil
}

// before is the cursor's content where rows are numbered and come newest first; 0 for the first page.
func (p PageInput) before() (int, error) {
	s, err := p.after()
	if err != nil || s == "" {
		return 0, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, coordinator.Errorf(coordinator.CodeInvalid, "the cursor is not valid").WithHint("begin again without one")
	}
	return n, nil
}

// page makes a page of rows, of which there may be one more than asked for: it only tells that more follow.
func page[R, T any](rows []R, limit int, key func(R) string, convert func(R) T) rest.Page[T] {
	p := rest.Page[T]{Items: []T{}}
	if len(rows) > limit {
		rows = rows[:limit]
		p.Next = base64.RawURLEncoding.EncodeToString([]byte(key(rows[limit-1])))
	}
	for _, r := range rows {
		p.Items = append(p.Items, convert(r))
	}
	return p
}

// whole is a page of a listing that is short by its nature.
func whole[R, T any](rows []R, convert func(R) T) rest.Page[T] {
	return page(rows, len(rows), func(R) string { return "" }, convert)
}
