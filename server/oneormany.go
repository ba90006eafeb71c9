package server

import "encoding/json"

// oneOrMany is a text or a list of texts in JSON.
type oneOrMany []string

// UnmarshalJSON takes either form.
func (o *oneOrMany) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*o = nil
		if one != "" {
			*o = []string{one}
		}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(o))
}
