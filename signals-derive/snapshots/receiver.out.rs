#[allow(clippy::needless_pass_by_value)]
/// Every new user gets a profile.
async fn create_profile(saved: PostSave<'_, User>, conn: &mut Conn<'_>) -> Result<()> {
    Ok(())
}
///Names the receiver [`create_profile`](fn@create_profile).
#[allow(non_camel_case_types, dead_code)]
struct create_profile {}
#[allow(deprecated, unused_qualifications)]
const _: () = {
    use ::sqlx_signals::__private as __p;
    #[allow(unused_imports)]
    use __p::defaults::*;
    const _: () = __p::is_signal::<post_save>();
    type __Named = post_save;
    const _: () = __p::has_sender::<
        <__p::SignalOf<
            { __p::SignalCheck::<__Named>::IS_SIGNAL },
        > as __p::SelectSignal<__Named>>::Signal,
    >();
    type __Signal = <__p::SignalOf<
        { __p::SignalCheck::<__Named>::HAS_SENDER },
    > as __p::SelectSignal<__Named>>::Signal;
    impl __p::Receiver for create_profile {}
    const _: () = {
        const __ASKS: &[__p::Asks] = &[
            __p::ParameterAsks::<
                __p::phase::InTransaction<__Signal>,
                &mut Conn<'_>,
            >::ASKS,
        ];
        static __INFO: __p::Info = __p::Info::new::<
            create_profile,
            __Signal,
            User,
        >(
                ::core::concat!(::core::module_path!(), "::", "create_profile"),
                ::core::file!(),
                ::core::line!(),
                "Every new user gets a profile.",
            )
            .phase(__p::Phase::InTransaction)
            .order(0i32)
            .asks(__ASKS);
        #[allow(unreachable_code, unused_mut, unused_variables)]
        fn __call<'__a, '__c>(
            __event: <__Signal as __p::Signal>::Event<'__a, User>,
            mut __cx: __p::Cx<'__a, '__c>,
        ) -> __p::Called<'__a> {
            __p::Box::pin(async move {
                __p::returned(
                    create_profile(
                            __event,
                            __p::take::<
                                __p::phase::InTransaction<__Signal>,
                                &mut Conn<'_>,
                            >(&mut __cx)?,
                        )
                        .await,
                )
            })
        }
        static __ENTRY: __p::Entry<__Signal, User> = <__p::Entry<
            __Signal,
            User,
        >>::future(__call);
        __p::inventory::submit! {
            __p::Registration::new:: < __Signal, User > (& __INFO, & __ENTRY)
        }
    };
};
