// Package gitops lets tests assess the health of the operator's objects as Argo CD does.
package gitops

import (
	"fmt"

	lua "github.com/yuin/gopher-lua"
)

// Health is the result of one of Argo CD's health scripts.
type Health struct {
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
}

// ArgoCD runs a health script with only the libraries that Argo CD opens for scripts in its
// ConfigMap, without os.
func ArgoCD(script string, object map[string]any) (Health, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return Health{}, err
		}
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		return Health{}, err
	}
	returned, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return Health{}, fmt.Errorf("the script returns a %s", state.Get(-1).Type())
	}
	return Health{Status: returned.RawGetString("status").String(), Message: returned.RawGetString("message").String()}, nil
}

// value converts a JSON value to Lua.
func value(state *lua.LState, of any) lua.LValue {
	switch of := of.(type) {
	case bool:
		return lua.LBool(of)
	case string:
		return lua.LString(of)
	case int64:
		return lua.LNumber(of)
	case float64:
		return lua.LNumber(of)
	case []any:
		list := state.NewTable()
		for _, item := range of {
			list.Append(value(state, item))
		}
		return list
	case map[string]any:
		table := state.NewTable()
		for key, item := range of {
			table.RawSetString(key, value(state, item))
		}
		return table
	}
	return lua.LNil
}
