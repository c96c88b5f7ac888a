//go:build linux
package nftdp
import ("testing";"net/netip";"github.com/vishvananda/netns";"fmt";"time")
func svc(i,n int, node bool) Service {
 s:=Service{Name:fmt.Sprintf("default/svc-%d:http",i)}
 s.Frontends=append(s.Frontends,Frontend{Addr:netip.AddrFrom4([4]byte{10,96,byte(i>>8),byte(i)}),Port:80})
 if node { s.Frontends=append(s.Frontends,Frontend{Port:uint16(30000+i)}) }
 for j:=0;j<n;j++ { s.Backends=append(s.Backends,Backend{Addr:netip.AddrPortFrom(netip.AddrFrom4([4]byte{10,byte(128+i>>12),byte(i>>4),byte(i<<4+j)}),8080)}) }
 return s
}
func TestSmoke(t *testing.T){
 ctx:=t.Context()
 d,err:=Config{}.Open(ctx,netns.None())
 if err!=nil{t.Fatal(err)}
 var all []Service
 for i:=0;i<3;i++ { all=append(all,svc(i,i,true)) }
 p,err:=d.Apply(ctx,all); if err!=nil{t.Fatal(err)}
 fmt.Println(p)
 p,err=d.Apply(ctx,all); fmt.Println("again",p,err)
 r,err:=d.Ruleset(ctx); fmt.Println(r,err)
 c,_:=Config{}.Compile(all)
 fmt.Println("DIFF", r.PlanTo(c), "END", r.String()==c.String())
 d2,_:=Config{}.Open(ctx,netns.None())
 p,err=d2.Apply(ctx,all); fmt.Println("adopt",p,err)
 d3,_:=Config{}.Open(ctx,netns.None())
 p,err=d3.Update(ctx,Change{Set:[]Service{svc(2,3,true)},Delete:[]string{all[0].Name}}); fmt.Println("upd",p,err)
 p,err=d3.Update(ctx,Change{Set:[]Service{svc(2,2,true)}}); fmt.Println("upd",p,err)
 st,err:=d.Inspect(ctx); fmt.Printf("%+v %v\n",st,err)
 p,err=d.Apply(ctx,nil); fmt.Println("none",p,err)
 fmt.Println(d.Remove(ctx))
 for _,n:=range []int{1000,10000}{
 all=nil
 for i:=0;i<n;i++ { all=append(all,svc(i,10,false)) }
 d,_=Config{}.Open(ctx,netns.None())
 t0:=time.Now(); _,err=d.Apply(ctx,all); fmt.Println(n,"load",time.Since(t0),err)
 t0=time.Now(); p,err=d.Apply(ctx,all); fmt.Println(n,"again",time.Since(t0),err,p.Len())
 for k:=0;k<3;k++{
 s:=svc(5,10,false); s.Backends[3].Addr=netip.AddrPortFrom(netip.AddrFrom4([4]byte{10,5,5,byte(k)}),8080)
 t0=time.Now(); p,err=d.Update(ctx,Change{Set:[]Service{s}}); fmt.Println(n,"upd",time.Since(t0),err,p.Len())}
 t0=time.Now(); p,err=d.Update(ctx,Change{Delete:[]string{all[7].Name}}); fmt.Println(n,"del",time.Since(t0),err,p.Len())
 d2,_:=Config{}.Open(ctx,netns.None())
 t0=time.Now(); p,err=d2.Apply(ctx,all); fmt.Println(n,"adopt",time.Since(t0),err,p.Len())
 t0=time.Now();fmt.Println(d.Remove(ctx),time.Since(t0))
 }
}
